"""Which criterion chooses the blocks that are missed least, right after removal and after healing?

    python -m benchmarks.evidence.choosing efficientnet_lite0 0 1 2
    python -m benchmarks.evidence.choosing resnet18 0 1 2

For a network trained plainly and one trained with the penalty: the scores of every criterion, what
each block alone is worth (its removal, then also healing it), and the network without the
half that a criterion chooses, before healing (plainly and with batch norm re-estimated) and after:
for one short epoch, and for a fourth of the training.
What choosing at random is worth is known exactly where every half can be tried, as for the five
blocks of ResNet-18; elsewhere three draws stand for it. Adds to
benchmarks/results/choosing.jsonl; `python -m benchmarks.page.results` makes the page.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch

from benchmarks.evidence.penalty import penalised
from benchmarks.evidence.trials import TASKS, Outcome, Results, after_removal, test_pct, training
from pipeline.core.devices import pick_device
from pipeline.core.params import Score
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.plan.search.orders import removal_order

TRAININGS = {"plain": {}, "penalty": penalised(3.0, estimator="power")}
DRAWS = 3
MANY_SETS = 20  # more halves than this are not all tried
HEALING = 4  # a fourth of the training's length
SCORING = {"samples": 1024, "projections": 50, "recovery_images": 2048}


def main() -> None:
    """Measure what has not been measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=TRAININGS)
    parser.add_argument("--what", nargs="+", default=["sets", "singles", "every"], help="what goes")
    arguments = parser.parse_args()
    task, results = arguments.task, Results("choosing")
    for seed in arguments.seeds:
        for how in arguments.trainings:
            start = training(task, TRAININGS[how], seed)
            name = f"{task} {how} {seed}"
            chosen = results.get(f"{name} scores", partial(scores, start, seed))
            half = (len(start.there) + 1) // 2
            few = math.comb(len(start.there), half) <= MANY_SETS
            trials: dict[str, dict[str, list[str]]] = {
                "sets": {by: removal_order(own)[:half] for by, own in chosen.items()},
                "singles": {block: [block] for block in start.there},
                "every": {
                    f"set {'+'.join(blocks)}": list(blocks)
                    for blocks in (combinations(sorted(start.there), half) if few else ())
                },
            }
            wanted = [item for what in arguments.what for item in trials[what].items()]
            for label, removed in wanted:
                compute = partial(without, start, removed, seed)
                key = "+".join(sorted(removed))  # criteria that agree share a measurement
                results.get(f"{name} {label}", partial(results.get, f"{name} {key}", compute))


def scores(start: Outcome, seed: int) -> dict[str, dict[str, float]]:
    """Return the scores of every criterion; several draws of the random one."""
    units = [unit for unit in start.units if unit.name in start.there]
    torch.manual_seed(seed)
    params = Score(seed=seed, **SCORING)
    evidence = gather(start.model, units, start.images, params, pick_device())
    found = {name: criterion(evidence) for name, criterion in CRITERIA.items()}
    del found["random"]
    for draw in range(DRAWS):
        params = Score(seed=100 * seed + draw, **SCORING)
        evidence = gather(start.model, units, start.images, params, pick_device())
        found[f"random {draw}"] = CRITERIA["random"](evidence)
    return found


def without(start: Outcome, removed: Sequence[str], seed: int) -> dict[str, Any]:
    """Return test % of the whole network and without these blocks, before and after healing."""
    return {
        "removed": list(removed),
        "whole": test_pct(start.model, start.images),
        **after_removal(start, removed, repairs=["bn"]),
        "healed_briefly": healed_pct(start, removed, seed, epochs=1),
        "healed": healed_pct(start, removed, seed),
    }


def healed_pct(
    start: Outcome, removed: Sequence[str], seed: int, epochs: int | None = None
) -> float:
    """Return test % without blocks after training on; by default for a fourth of the training."""
    recipe = TASKS[start.record["task"]].recipe
    healing = {
        "epochs": epochs or recipe["epochs"] // HEALING,
        "learning_rate": recipe["learning_rate"] / 4,
    }
    healed = training(start.record["task"], healing, seed, start=start, without=removed)
    return test_pct(healed.model, healed.images)


if __name__ == "__main__":
    main()
