"""Compare the ways to a shallow network at equal training time, at half and at full depth.

    python -m benchmarks.evidence.strategies resnet18 0 1 2
    python -m benchmarks.evidence.strategies efficientnet_lite0 0 1 2

Every way gets the time that plain training takes: how many epochs that is follows from the CPU
seconds per image that each needs in trials taken in turn, rounded down (up where a twentieth of an
epoch is missing), less what choosing blocks costs. An epoch has a part of the images, so epochs are
short. A teacher's own training is not counted; ways that have one say so. Adds to
benchmarks/results/strategies.jsonl; accuracies are on test (docs/results.md says what was decided
after a look at them). `python -m benchmarks.page.results` makes the page.
"""

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.penalty import by_distance, penalised
from benchmarks.evidence.trials import (
    TASKS,
    Outcome,
    Results,
    after_removal,
    images_of,
    loader,
    test_pct,
    training,
)
from models.replacement.fitting import fit
from models.unit_selection import select_units
from pipeline.core.devices import pick_device
from pipeline.core.params import Score, Strategy, Train
from pipeline.data.dataset import Dataset
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.plan.search.orders import removal_order
from pipeline.train.calibration import REPLACEMENT_IMAGES
from pipeline.train.epoch import MONITORED_IMAGES
from pipeline.train.initial_network import create_network
from pipeline.train.loop import train
from pipeline.train.strategies import STRATEGIES

TRIAL_IMAGES, TRIAL_ROUNDS = 2560, 2  # 20 steps of ResNet-18: `until` comes out exactly
PLAIN = "plain training"
DISTILLED = {"distill": {"weight": 0.5, "temperature": 4.0}}

Ways = dict[str, dict[str, Any]]


def strategy(name: str, **changes: Any) -> dict[str, Any]:
    """Return a recipe's `strategy`."""
    return {"strategy": {"name": name, **changes}}


SCRATCH: Ways = {
    PLAIN: {},
    "penalty, λ = 5, random (the paper)": penalised(5.0),
    "penalty, λ = 3, power": penalised(3.0, estimator="power"),
    "progressive, λ = 3, power": penalised(3.0, estimator="power") | strategy("progressive"),
    "remove_first": strategy("remove_first", until=0.4),
    "remove_first, linear maps": strategy("remove_first", until=0.4, replacement="linear"),
    "anneal": strategy("anneal"),
    "anneal until 0.2": strategy("anneal", until=0.2),
    "anneal until 0.1": strategy("anneal", until=0.1),
    "anneal until 0.05": strategy("anneal", until=0.05),
    "explore": strategy("explore"),
    "shallow": strategy("shallow", order="random"),
    "anneal, distilled": strategy("anneal") | DISTILLED,
    "shallow, distilled": strategy("shallow", order="random") | DISTILLED,
}
FINE_TUNED: Ways = {
    PLAIN: {},
    "penalty, λ = 5, random (the paper)": penalised(5.0),
    "progressive, λ = 1, power": penalised(1.0, estimator="power") | strategy("progressive"),
    "remove_first, random": strategy("remove_first", order="random"),
    "remove_first, block influence": strategy("remove_first"),
    "remove_first, deepest first": strategy("remove_first", order="deepest_first"),
    "remove_first, linear maps": strategy("remove_first", replacement="linear"),
    "remove_first, deepest first, linear maps": strategy(
        "remove_first", order="deepest_first", replacement="linear"
    ),
    "anneal": strategy("anneal"),
    "explore until 0.2": strategy("explore", until=0.2),
    "explore until 0.1, linear maps": strategy("explore", until=0.1, replacement="linear"),
    "shallow (from scratch)": strategy("shallow", order="random"),
}
WAYS = {"resnet18": SCRATCH, "efficientnet_lite0": FINE_TUNED}


def main() -> None:
    """Measure what has not been measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=WAYS)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--ways", nargs="+", help="only these")
    arguments = parser.parse_args()
    task = arguments.task
    results = Results("strategies")
    ways = {way: WAYS[task][way] for way in arguments.ways or WAYS[task]}
    for seed in arguments.seeds:  # seed by seed, so that a stopped run has whole tables
        for way, wanted in ways.items():
            for depth in depths(task, wanted):
                name = f"{task} {way} {depth}"
                epochs = results.get(f"{name} epochs", partial(equal_epochs, task, way, depth))
                compute = partial(measure, task, way, depth, epochs, seed)
                results.get(f"{name} {seed}", compute)


def depths(task: str, way: Mapping[str, Any]) -> list[int]:
    """Return how many blocks are to go: half of them and all; 0 where one training serves both."""
    count = len(removable(task))
    if "strategy" not in way:
        return [0]
    half = (count + 1) // 2
    if way["strategy"]["name"] == "explore":  # of all blocks there is nothing to choose
        return [half]
    return [count] if "distill" in way else [half, count]


def removable(task: str) -> list[str]:
    """Return the removable blocks of a task's network."""
    model, spec, _ = create_network(TASKS[task].model, images_of(task))
    return [unit.name for unit in select_units(model, spec.example()).removable]


def changes(way: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return a way's changes to the recipe, for a number of blocks to go."""
    if not depth:
        return dict(way)
    return dict(way) | {"strategy": way["strategy"] | {"remove": depth}}


def measure(task: str, way: str, depth: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train; return what it cost, and test % without the blocks."""
    wanted = WAYS[task][way]
    teacher = training(task, {}, seed) if "distill" in wanted else None
    own = changes(wanted, depth) | {"epochs": epochs}
    scratch = "from scratch" in way
    outcome = training(task, own, seed, teacher=teacher, pretrained=not scratch)
    cost = ("cpu_seconds", "images_seen", "macs_spent", "removed")
    cost_of = {key: outcome.record[key] for key in cost}
    return {"task": task, "way": way, "seed": seed, **cost_of, **accuracies(outcome, depth)}


def accuracies(outcome: Outcome, depth: int) -> dict[str, Any]:
    """Return test % by the number of blocks that are out."""
    if depth:
        return {"levels": {str(depth): {"trained": test_pct(outcome.model, outcome.images)}}}
    order = by_distance(outcome)
    levels = (0, (len(order) + 1) // 2, len(order))
    return {
        "order": order,
        "levels": {str(level): after_removal(outcome, order[:level]) for level in levels},
    }


def equal_epochs(task: str, way: str, depth: int) -> int:
    """Return how many epochs a way may take to cost what plain training costs."""
    images = images_of(task)
    few = images.train.sample(TRIAL_IMAGES)
    images = dataclasses.replace(images, train=few, validation=few.sample(64))
    plain, own = [], []
    for _ in range(TRIAL_ROUNDS):  # in turn; all else that runs only slows down
        plain.append(trial_seconds(task, {}, images))
        own.append(trial_seconds(task, changes(WAYS[task][way], depth), images))
    recipe = TASKS[task].recipe
    epoch = min(plain) * recipe["images_per_epoch"] / TRIAL_IMAGES
    choosing = choosing_seconds(task, way, depth) if depth else 0.0
    budget: float = recipe["epochs"] - choosing / epoch
    return max(1, math.floor(budget * min(plain) / min(own) + 0.05))


def trial_seconds(task: str, own: dict[str, Any], images: Dataset) -> float:
    """Return the CPU seconds of one short epoch, in which blocks are chosen at no cost."""
    torch.set_num_threads(1)
    recipe = {"penalty": {"lambda": 0.0}, **TASKS[task].recipe, **own}
    recipe |= {"epochs": 1, "images_per_epoch": None}
    if "strategy" in recipe:
        recipe["strategy"] = recipe["strategy"] | {
            "order": "deepest_first",
            "replacement": "identity",
        }
    teacher = create_network(TASKS[task].model, images)[0] if "distill" in own else None
    first = dataclasses.replace(images, train=images.train.sample(64))
    with tempfile.TemporaryDirectory() as folder:
        for split in (first, images):  # once without the clock: a first pass is slower
            model, spec, _ = create_network(TASKS[task].model, images)
            units = select_units(model, spec.example()).removable
            started = time.process_time()
            train(
                *(model, split, Train.model_validate(recipe), units),
                device=pick_device(),
                checkpoint=Path(folder) / f"{len(split.train)}.pt",
                log=lambda _: None,
                teacher=teacher,
            )
        return time.process_time() - started


def choosing_seconds(task: str, way: str, depth: int) -> float:
    """Return the CPU seconds that it takes to choose blocks and to fit what stands in for them."""
    wanted = Strategy.model_validate(WAYS[task][way]["strategy"])
    model, spec, images = create_network(TASKS[task].model, images_of(task))
    units = select_units(model, spec.example()).removable
    ranking = Score(samples=MONITORED_IMAGES, projections=50, recovery_images=0)
    started = time.process_time()
    evidence = gather(model, units, images, ranking, pick_device(), together=depth)
    auto = STRATEGIES[wanted.name].auto_order
    criterion = auto if wanted.order == "auto" else wanted.order
    names = removal_order(CRITERIA[criterion](evidence))[:depth]
    once = time.process_time() - started
    if wanted.replacement != "identity":
        some = images.train.sample(REPLACEMENT_IMAGES)
        fit(model.eval(), names, wanted.replacement, (x for x, _ in loader(some, images)))
    fitting = time.process_time() - started - once
    return fitting + once * (depth if wanted.name == "progressive" else 1)


if __name__ == "__main__":
    main()
