"""Which engine to ship: the recommendation, over all variants, levels and precisions.

Accuracies are on validation, so that test stays what it is for: to be reported once. What an engine
loses is counted from the most accurate whole network in fp32, on whatever backend that was timed
(where no variant is whole: from the most accurate network), and how many times as fast it is from
the same network on the same backend, if it was timed there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.params import Choose
from pipeline.rows import Row, blocks_out, engine_accuracy_pct


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
    reference: Candidate | None  # what it is compared with, if timed on the same backend
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
    best = compared_with(rows)
    accurate = [c for c in candidates if _loss(c, best) <= _allowed(limits)]
    within = [c for c in accurate if c.latency_ms <= _budget(limits)]
    if not within:
        return Choice(None, None, _why_nothing(candidates, accurate, best, limits))
    chosen = min(within, key=_by_accuracy if limits.latency_budget_ms else _by_latency)
    on_backend = (c for c in candidates if c.backend == chosen.backend)
    reference = next((c for c in on_backend if _is_of(c, best)), None)
    return Choice(chosen, reference, _why(chosen, reference, best, candidates, limits))


def timed(rows: Iterable[Row]) -> list[Candidate]:
    """Return one candidate per row and backend that was timed, in the order of the rows."""
    return [
        Candidate(
            variant=row["variant"],
            level=row["level"],
            precision=row["precision"],
            backend=backend,
            removed=len(blocks_out(row)),
            val_accuracy_pct=engine_accuracy_pct(row, backend, "val"),
            test_accuracy_pct=engine_accuracy_pct(row, backend, "test"),
            latency_ms=latency["p50"],
        )
        for row in rows
        for backend, latency in row["latency_ms"].items()
    ]


def compared_with(rows: Sequence[Row]) -> Row:
    """Return the row of the most accurate whole network in fp32; where none is whole, of all.

    One that was timed on some backend goes before those that were on none.
    """
    whole = [row for row in rows if not blocks_out(row) and row["precision"] == "fp32"]
    of_timed = [row for row in whole if row["latency_ms"]]
    return max(of_timed or whole or rows, key=lambda row: row["val_accuracy_pct"])


def _is_of(candidate: Candidate, row: Row) -> bool:
    """Tell whether an engine is of a row's graph."""
    return (candidate.variant, candidate.level, candidate.precision) == (
        row["variant"],
        row["level"],
        row["precision"],
    )


def _loss(candidate: Candidate, best: Row) -> float:
    """Return the points of validation accuracy lost to `best`; rounded as they are shown."""
    lost: float = best["val_accuracy_pct"] - candidate.val_accuracy_pct
    return round(lost, 2)


def _allowed(limits: Choose) -> float:
    return float("inf") if limits.max_accuracy_drop_pct is None else limits.max_accuracy_drop_pct


def _budget(limits: Choose) -> float:
    return float("inf") if limits.latency_budget_ms is None else limits.latency_budget_ms


def _by_latency(candidate: Candidate) -> tuple[float, ...]:
    return candidate.latency_ms, -candidate.val_accuracy_pct, -candidate.removed


def _by_accuracy(candidate: Candidate) -> tuple[float, ...]:
    return -candidate.val_accuracy_pct, candidate.latency_ms, -candidate.removed


def _why(
    chosen: Candidate,
    reference: Candidate | None,
    best: Row,
    candidates: Sequence[Candidate],
    limits: Choose,
) -> str:
    what = f"{best['variant']} level {best['level']}, which is the most accurate"
    if not blocks_out(best):
        what = f"the whole {best['variant']}"
    gain = f"{-_loss(chosen, best) + 0.0:+.2f} points against {what}"
    if reference == chosen:
        gain = f"{what} itself"
    elif reference is not None:
        gain += f", {reference.latency_ms / chosen.latency_ms:.2f}× as fast"
    return f"{chosen.label}: {gain}; {_why_not_further(chosen, best, candidates, limits)}"


def _why_not_further(
    chosen: Candidate, best: Row, candidates: Sequence[Candidate], limits: Choose
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
    best: Row,
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
