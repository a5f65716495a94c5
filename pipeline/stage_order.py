"""In which order the stages of dvc.yaml run, and which variants wait for which."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from models.errors import ParamsError
from pipeline.artifacts import metrics_path
from pipeline.params import Params, PlannedLevel, Variant


@dataclass(frozen=True)
class Order:
    """Names of stages, each after those whose outputs it reads."""

    before: list[str]  # of all variants at once, before any
    each: list[str]  # once per variant
    after: list[str]  # over all variants


def stage_order(stages: Mapping[str, Any]) -> Order:
    """Return the order of what dvc.yaml describes under `stages`."""
    described = {name: stage.get("do", stage) for name, stage in stages.items()}
    reads = {
        name: [
            other
            for other, made in described.items()
            if any(_overlap(dep, out) for dep in _deps(stage) for out in _outs(made))
        ]
        for name, stage in described.items()
    }
    order = Order([], [], [])
    for name in TopologicalSorter(reads).static_order():
        if "foreach" in stages[name]:
            order.each.append(name)
        elif {*order.each, *order.after}.intersection(reads[name]):
            order.after.append(name)
        else:
            order.before.append(name)
    return order


def _deps(stage: Mapping[str, Any]) -> list[Path]:
    return [Path(dep) for dep in stage.get("deps", [])]


def _outs(stage: Mapping[str, Any]) -> Iterator[Path]:
    """Yield what a stage writes; an entry with options is a map of one key."""
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            yield Path(out if isinstance(out, str) else next(iter(out)))


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def waves(params: Params, variants: Iterable[str]) -> Iterator[list[str]]:
    """Yield groups of these variants; those of one group wait for none but earlier groups.

    DVC does not know that a variant learns from another or removes by another's plan.

    Raises:
        ParamsError: variants wait for each other.
    """
    names = list(variants)
    waiting = {name: needs(params.variants[name], params).keys() & set(names) for name in names}
    sorter = TopologicalSorter(waiting)
    try:
        sorter.prepare()
    except CycleError as e:
        raise ParamsError(
            f"variants wait for each other: {' → '.join(e.args[1])}; change a strategy.remove.plan"
        ) from e
    while sorter.is_active():
        ready = sorter.get_ready()
        yield sorted(ready, key=names.index)
        sorter.done(*ready)


def needs(variant: Variant, params: Params) -> dict[str, str]:
    """Return the variants that one is made from, and the stage that makes their network or plan."""
    teacher, removed = variant.train.distill.teacher, variant.train.strategy.remove
    plan = Path(removed.plan) if isinstance(removed, PlannedLevel) else None
    by_plan = {other: "plan" for other in params.variants if metrics_path("plan", other) == plan}
    return ({teacher: "train"} if teacher else {}) | by_plan
