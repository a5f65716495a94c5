"""Train plainly, put linear maps in the place of blocks, heal: plan and heal, at equal time.

    python -m benchmarks.mending resnet18 0 1 2
    python -m benchmarks.mending efficientnet_lite0 0 1 2

Half of the epochs go to plain training. Then blocks are chosen by `recoverability` (all of them
need no choice), a linear map is fitted in the place of each, and the network with its maps is
trained on, with half of the learning rate, in the time that is left of the plain training's. Adds
rows to benchmarks/results/strategies.jsonl; run benchmarks.strategies first, whose trials it uses.
"""

import argparse
import time
from functools import partial
from typing import Any

from torch import nn

from benchmarks.results import half_and_all
from benchmarks.strategies import PLAIN, WAYS
from benchmarks.trials import (
    FOLDER,
    TASKS,
    Outcome,
    Results,
    calibration,
    loader,
    monitored,
    test_pct,
    training,
)
from models.surgery import bypass
from pipeline.criteria import CRITERIA, gather
from pipeline.devices import pick_device
from pipeline.params import Score, Train
from pipeline.replacement import fit
from pipeline.search import removal_order
from pipeline.train import train

WAY = "plain, linear maps, healed"
SCORING = {"samples": 1024, "projections": 50, "recovery_images": 1024}


def main() -> None:
    """Measure what has not been measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=WAYS)
    parser.add_argument("seeds", type=int, nargs="+")
    arguments = parser.parse_args()
    task, results = arguments.task, Results("strategies")
    for seed in arguments.seeds:
        for depth in half_and_all(task):
            name = f"{task} {WAY} {depth} {seed}"
            results.get(name, partial(measure, results, task, depth, seed))


def measure(results: Results, task: str, depth: int, seed: int) -> dict[str, Any]:
    """Train, replace, heal; return what it cost, and test % of the network with its maps."""
    recipe = TASKS[task].recipe
    start = training(task, {"epochs": recipe["epochs"] // 2}, seed)
    started = time.process_time()
    removed = choice(start, depth, seed)
    seen = (x for x, _ in loader(calibration(start.images), start.images))
    model = bypass(start.model, removed, fit(start.model, removed, "linear", seen))
    spent = start.record["cpu_seconds"] + time.process_time() - started
    budget = results.known[f"{task} {PLAIN} 0 {seed}"]["cpu_seconds"]
    epochs = max(1, int((budget - spent) / seconds_per_epoch(results, task, depth) + 0.05))
    started = time.process_time()
    history = heal(model, start, {"epochs": epochs, "learning_rate": recipe["learning_rate"] / 2})
    return {
        "task": task,
        "way": WAY,
        "seed": seed,
        "cpu_seconds": spent + time.process_time() - started,
        "images_seen": start.record["images_seen"] + sum(e["images_seen"] for e in history),
        "macs_spent": start.record["macs_spent"] + sum(e["macs_spent"] for e in history),
        "removed": removed,
        "levels": {str(depth): {"trained": test_pct(model, start.images)}},
    }


def choice(start: Outcome, depth: int, seed: int) -> list[str]:
    """Return the blocks to go."""
    if depth == len(start.units):
        return [unit.name for unit in start.units]
    params = Score(seed=seed, **SCORING)
    model, units, images = start.model, start.units, start.images
    evidence = gather(model, units, images, params, pick_device(), together=depth)
    return removal_order(CRITERIA["recoverability"](evidence))[:depth]


def seconds_per_epoch(results: Results, task: str, depth: int) -> float:
    """Return the CPU seconds of an epoch of the shallow network, by the trials of `shallow`."""
    trial = results.known[f"{task} trial"]
    per_image = next(
        v for k, v in trial.items() if k.startswith("shallow") and k.endswith(str(depth))
    )
    return float(per_image * TASKS[task].recipe["images_per_epoch"])


def heal(model: nn.Module, start: Outcome, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Train a network with its maps on; return its epochs."""
    recipe = start.record["recipe"] | changes | {"warmup_fraction": 0.0}
    checkpoint = FOLDER / "checkpoints" / f"mending-{start.record['key']}"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.unlink(missing_ok=True)
    trained = train(
        model,
        monitored(start.images),
        Train.model_validate(recipe),
        [],
        device=pick_device(),
        checkpoint=checkpoint,
        log=lambda entry: print(entry["epoch"], f"{entry['val_accuracy_pct']:.2f} %", flush=True),
    )
    checkpoint.unlink()
    return trained.history


if __name__ == "__main__":
    main()
