"""What the parity ladder found: a line per rung, with its status at every level."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
MARKS = {"passed": "✓", "failed": "✗", "not run": "–"}


@dataclass(frozen=True)
class Rung:
    """A proof that was asked for at every level."""

    what: str
    precision: str | None
    backend: str | None
    statuses: list[str | None]  # by level; None: the level has no such rung
    max_rel: float | None  # the largest of all levels
    top1_agreement: float | None  # the smallest
    tolerance: str
    notes: list[str]


@dataclass(frozen=True)
class Ladder:
    """A variant's rungs."""

    variant: str
    images: int
    levels: list[int]
    rungs: list[Rung]
    counts: Counter[str]


def ladders(metrics: Mapping[str, Mapping[str, Metrics]]) -> list[Ladder]:
    """Return the ladder of every variant."""
    return [_ladder(variant, own["verify"]) for variant, own in metrics.items()]


def _ladder(variant: str, verify: Metrics) -> Ladder:
    levels = verify["levels"]
    kinds = dict.fromkeys(_kind(rung) for level in levels for rung in level["rungs"])
    found = [{_kind(rung): rung for rung in level["rungs"]} for level in levels]
    return Ladder(
        variant,
        verify["images"],
        [level["level"] for level in levels],
        [_rung(kind, [at.get(kind) for at in found]) for kind in kinds],
        Counter(rung["status"] for at in found for rung in at.values()),
    )


def _kind(rung: Metrics) -> tuple[str, str | None, str | None]:
    return rung["rung"], rung["precision"], rung["backend"]


def _rung(kind: tuple[str, str | None, str | None], at_levels: Sequence[Metrics | None]) -> Rung:
    there = [rung for rung in at_levels if rung]
    tolerance = there[0]["tolerance"] or {}
    return Rung(
        *kind,
        [rung["status"] if rung else None for rung in at_levels],
        max(_measured(there, "max_rel"), default=None),
        min(_measured(there, "top1_agreement"), default=None),
        ", ".join(f"{name} {value:g}" for name, value in tolerance.items()),
        list(dict.fromkeys(rung["reason"] for rung in there if rung["reason"])),
    )


def _measured(rungs: Iterable[Metrics], key: str) -> list[float]:
    return [rung[key] for rung in rungs if rung[key] is not None]
