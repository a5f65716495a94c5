"""What the penalty does: λ, estimator, batch size, directions and architecture.

    python -m benchmarks.evidence.penalty 0 1 2
    python -m benchmarks.evidence.penalty 0 --tasks resnet18_full     # the authors' width, one seed

Every setting is trained once per seed; blocks go in ascending order of their distance on
calibration images and test accuracy is read at every level. Adds to
benchmarks/results/penalty.jsonl; `python -m benchmarks.page.results` makes the page.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.evidence.trials import (
    Outcome,
    Results,
    after_removal,
    calibration,
    loader,
    training,
)
from models.cost import count_macs
from models.surgery import bypass
from pipeline.distances.features import measure_blocks
from pipeline.plan.search.orders import removal_order

LAMBDAS = (1.0, 3.0, 5.0)
FULL_WIDTH = "resnet18_full"
FAMILY_LAMBDAS = {"vit": (0.0, 0.1, 1.0), "mobilenetv2": (0.0, 1.0, 5.0)}


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (task, changes to its recipe), the ones most needed first."""
    yield "resnet18", penalised(0.0)
    for weight in LAMBDAS[::-1]:
        for estimator in ("random", "power"):
            yield "resnet18", penalised(weight, estimator=estimator)
    for task, weights in FAMILY_LAMBDAS.items():
        for weight in weights:
            yield task, penalised(weight, estimator="power")
    for weight in (0.0, 5.0):
        yield FULL_WIDTH, penalised(weight)
    for batch_size in (32, 512):
        yield "resnet18", penalised(3.0) | {"batch_size": batch_size}
    for projections in (5, 500):
        yield "resnet18", penalised(3.0, projections=projections)


def penalised(weight: float, *, estimator: str = "random", projections: int = 50) -> dict[str, Any]:
    """Return a recipe's `penalty`."""
    return {
        "penalty": {"lambda": weight, "estimator": estimator, "projections": projections}
        if weight
        else {"lambda": 0.0}
    }


def main() -> None:
    """Measure what has not been measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--tasks", nargs="+", default=["resnet18", *FAMILY_LAMBDAS])
    arguments = parser.parse_args()
    results = Results("penalty")
    for seed in arguments.seeds:
        for task, changes in settings():
            if task not in arguments.tasks:
                continue
            name = f"{task} {changes} {seed}"
            results.get(name, partial(measure, task, changes, seed))


def measure(task: str, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train; return what it cost and test % with 0, 1, 2, … blocks out."""
    outcome = training(task, changes, seed)
    order = by_distance(outcome)
    image, _ = next(loader(outcome.images.test.sample(1), outcome.images))
    return {
        "task": task,
        **changes,
        "seed": seed,
        "cpu_seconds": outcome.record["cpu_seconds"],
        "order": order,
        "levels": {
            str(level): after_removal(outcome, order[:level], repairs=repairs(level, len(order)))
            for level in wanted(task, changes, len(order))
        },
        "macs": [
            count_macs(bypass(outcome.model, order[:n]), image) for n in range(len(order) + 1)
        ],
    }


def wanted(task: str, changes: dict[str, Any], deepest: int) -> list[int]:
    """Return the levels that are measured: all for a sweep of λ, else the whole, half and all."""
    if task in ("resnet18", FULL_WIDTH) and list(changes) == ["penalty"]:
        return list(range(deepest + 1))
    return [0, (deepest + 1) // 2, deepest]


def repairs(level: int, deepest: int) -> list[str]:
    """Return the repairs that are measured: linear maps where all blocks are out."""
    return ["bn", "linear"] if level == deepest else ["bn"]


def by_distance(outcome: Outcome) -> list[str]:
    """Return the removable blocks that are left in ascending order of their distance."""
    units = [unit for unit in outcome.units if unit.name in outcome.there]
    seen = (x for x, _ in loader(calibration(outcome.images), outcome.images))
    measured = measure_blocks(outcome.model, units, seen, n_projections=50, seed=0)
    return removal_order({name: block.msw for name, block in measured.items()})


if __name__ == "__main__":
    main()
