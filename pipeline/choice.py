"""Which engine to ship: the recommendation, over all variants, levels and precisions.

Accuracies are on validation, so that test stays what it is for: to be reported once. What an engine
loses is counted from the most accurate whole network in fp32, and how many times as fast it is from
the same network on the same backend.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.params import Choose

Row = Mapping[str, Any]  # of reports/summary.json


@dataclass(frozen=True)
class Candidate:
    """An engine that was proven and timed."""

    variant: str
    level: int
    precision: str
    backend: str
    removed: int  # blocks that the network lacks, those that went in training included
    val_accuracy_pct: float
    test_accuracy_pct: float
    latency_ms: float  # p50 at the largest batch size

    @property
    def label(self) -> str:
        """Return e.g. ``lacoot level 4, int8 on tensorrt``."""
        return f"{self.variant} level {self.level}, {self.precision} on {self.backend}"


@dataclass(frozen=True)
class Choice:
    """What is recommended, what it is compared with, and why it and nothing else."""

    chosen: Candidate | None  # None: nothing obeys the limits
    reference: Candidate | None  # the whole network on the backend of `chosen`
    reason: str  # one sentence

    def to_json(self) -> dict[str, Any]:
        """Return the choice as reports/summary.json holds it."""
        return asdict(self)


def choose(rows: Sequence[Row], limits: Choose) -> Choice:
    """Return the engine to ship.

    Under a latency budget that is the most accurate of those within it; without one, the fastest.
    Either way it loses no more than `limits.max_accuracy_drop_pct` to the whole network, and of
    equals the faster, then the smaller network is taken.

    Args:
        rows: of reports/summary.json.
        limits: the section `choose` of params.yaml.
    """
    candidates = [c for c in timed(rows) if limits.backend in (None, c.backend)]
    if not candidates:
        where = f" on backend {limits.backend!r}" if limits.backend else ""
        return Choice(None, None, f"nothing to recommend: no engine was timed{where}")
    best = compared_with(candidates)
    accurate = [c for c in candidates if _loss(c, best) <= _allowed(limits)]
    within = [c for c in accurate if c.latency_ms <= _budget(limits)]
    if not within:
        return Choice(None, None, _why_nothing(candidates, accurate, best, limits))
    chosen = min(within, key=_by_accuracy if limits.latency_budget_ms else _by_latency)
    reference = _on_backend(best, candidates, chosen.backend)
    return Choice(chosen, reference, _why(chosen, reference, best, candidates, limits))


def engine_accuracy_pct(row: Row, backend: str | None, split: Literal["val", "test"]) -> float:
    """Return the accuracy of a row's engine; of its graph where that has not been run.

    Args:
        row: of reports/summary.json.
        backend: the engine's; None: of the graph.
        split: the images.
    """
    found: Mapping[str, float] | None = row["engine_accuracy_pct"].get(backend)
    accuracy: float = row[f"{split}_accuracy_pct"] if found is None else found[split]
    return accuracy


def timed(rows: Iterable[Row]) -> list[Candidate]:
    """Return one candidate per row and backend that was timed, in the order of the rows."""
    return [
        Candidate(
            variant=row["variant"],
            level=row["level"],
            precision=row["precision"],
            backend=backend,
            removed=len(row["removed"]) + len(row["removed_in_training"]),
            val_accuracy_pct=engine_accuracy_pct(row, backend, "val"),
            test_accuracy_pct=engine_accuracy_pct(row, backend, "test"),
            latency_ms=latency["p50"],
        )
        for row in rows
        for backend, latency in row["latency_ms"].items()
    ]


def compared_with(candidates: Sequence[Candidate]) -> Candidate:
    """Return the most accurate whole network in fp32, or of all where no whole one was timed."""
    whole = [c for c in candidates if not c.removed and c.precision == "fp32"]
    return max(whole or candidates, key=lambda c: c.val_accuracy_pct)


def _loss(candidate: Candidate, best: Candidate) -> float:
    """Return the points of validation accuracy lost to the reference; rounded as they are shown."""
    return round(best.val_accuracy_pct - candidate.val_accuracy_pct, 2)


def _allowed(limits: Choose) -> float:
    return float("inf") if limits.max_accuracy_drop_pct is None else limits.max_accuracy_drop_pct


def _budget(limits: Choose) -> float:
    return float("inf") if limits.latency_budget_ms is None else limits.latency_budget_ms


def _by_latency(candidate: Candidate) -> tuple[float, ...]:
    return candidate.latency_ms, -candidate.val_accuracy_pct, -candidate.removed


def _by_accuracy(candidate: Candidate) -> tuple[float, ...]:
    return -candidate.val_accuracy_pct, candidate.latency_ms, -candidate.removed


def _on_backend(best: Candidate, candidates: Iterable[Candidate], backend: str) -> Candidate:
    """Return the reference as it was timed on a backend, or as it is where it was not."""
    key = (best.variant, best.level, best.precision, backend)
    return next(
        (c for c in candidates if (c.variant, c.level, c.precision, c.backend) == key), best
    )


def _why(
    chosen: Candidate,
    reference: Candidate,
    best: Candidate,
    candidates: Sequence[Candidate],
    limits: Choose,
) -> str:
    if chosen == reference:
        gain = "the whole network itself"
    else:
        gain = (
            f"{-_loss(chosen, best):+.2f} points against the whole {reference.variant}, "
            f"{reference.latency_ms / chosen.latency_ms:.2f}× as fast"
        )
    return f"{chosen.label}: {gain}; {_why_not_further(chosen, best, candidates, limits)}"


def _why_not_further(
    chosen: Candidate, best: Candidate, candidates: Sequence[Candidate], limits: Choose
) -> str:
    """Return what the next engine in the direction of the choice would cost."""
    if limits.latency_budget_ms is not None:
        allowed = [c for c in candidates if _loss(c, best) < _loss(chosen, best)]
        if not allowed:
            return f"nothing is more accurate, and it keeps {limits.latency_budget_ms:g} ms"
        following = min(allowed, key=_by_latency)
        return (
            f"what is more accurate takes {following.latency_ms:.2f} ms or more, "
            f"over the budget of {limits.latency_budget_ms:g} ms"
        )
    faster = [c for c in candidates if c.latency_ms < chosen.latency_ms]
    if not faster:
        return "nothing is faster"
    following = min(faster, key=_by_accuracy)
    return f"what is faster costs {_loss(following, best):.2f} points or more"


def _why_nothing(
    candidates: Sequence[Candidate],
    accurate: Sequence[Candidate],
    best: Candidate,
    limits: Choose,
) -> str:
    if not accurate:
        closest = min(candidates, key=_by_accuracy)
        return (
            f"nothing to recommend: no engine loses at most {limits.max_accuracy_drop_pct:g} "
            f"points; the closest, {closest.label}, loses {_loss(closest, best):.2f}; "
            "raise max_accuracy_drop_pct or heal"
        )
    fastest = min(accurate, key=_by_latency)
    lost = (
        ""
        if limits.max_accuracy_drop_pct is None
        else f" that loses at most {limits.max_accuracy_drop_pct:g} points"
    )
    return (
        f"nothing to recommend: no engine{lost} keeps {limits.latency_budget_ms:g} ms; the "
        f"closest, {fastest.label}, takes {fastest.latency_ms:.2f} ms; "
        "raise latency_budget_ms or remove more blocks"
    )
