"""Which engine to ship: the recommendation, over all variants, levels and precisions.

Accuracies are on validation, so that test stays what it is for: to be reported once. What an engine
loses is counted from the most accurate whole network in fp32, on whatever backend that was timed
(where no variant is whole: from the most accurate network), and how many times as fast it is from
the same network on the same backend, if it was timed there.
"""

from collections.abc import Sequence

from pipeline.core.params import Choose
from pipeline.report.records import Candidate, Choice, EngineRow, NetworkRow, timed


def choose(networks: list[NetworkRow], engines: list[EngineRow], limits: Choose) -> Choice:
    """Return the engine to ship.

    Under a latency budget that is the most accurate of those within it; without one, the fastest.
    Either way it loses no more than `limits.max_accuracy_drop_pct` to the whole network. Of those
    that are level, because the intervals of their latencies overlap, the one that lacks the most
    blocks is taken, then the one of the smallest file.

    Args:
        networks: of reports/summary.json.
        engines: of the same.
        limits: the section `choose` of params.yaml.
    """
    candidates = [c for c in timed(networks, engines) if limits.backend in (None, c.backend)]
    if not candidates:
        where = f" on backend {limits.backend!r}" if limits.backend else ""
        return Choice(None, None, f"nothing to recommend: no engine was timed{where}")
    best = compared_with(networks, timed(networks, engines))
    accurate = [c for c in candidates if _loss(c, best) <= _allowed(limits)]
    within = [c for c in accurate if c.latency_ms <= _budget(limits)]
    if not within:
        return Choice(None, None, _why_nothing(candidates, accurate, best, limits))
    first = min(within, key=_by_accuracy if limits.latency_budget_ms else _by_latency)
    level = [c for c in within if c.is_level_with(first) and _is_rival(c, first, limits)]
    chosen = min(level, key=lambda c: (-c.removed, c.bytes))
    level.remove(chosen)
    on_backend = (c for c in candidates if c.backend == chosen.backend)
    reference = next((c for c in on_backend if c.network == best.key), None)
    further = [c for c in candidates if not c.is_level_with(chosen)]
    why = _why(chosen, reference, best, further, limits) + _beside(level)
    return Choice(chosen, reference, why, level)


def _is_rival(candidate: Candidate, first: Candidate, limits: Choose) -> bool:
    """Say whether one that is as fast as the first could be taken for it."""
    as_accurate = candidate.val_accuracy_pct >= first.val_accuracy_pct
    return as_accurate or limits.latency_budget_ms is None


def _beside(level: Sequence[Candidate]) -> str:
    return f"; level with it within the noise: {', '.join(c.label for c in level)}" if level else ""


def compared_with(networks: Sequence[NetworkRow], engines: Sequence[Candidate]) -> NetworkRow:
    """Return the most accurate whole network in fp32; where none is whole, of all networks.

    One that was timed on some backend is preferred to those that were on none.
    """
    whole = [row for row in networks if not row.all_removed and row.precision == "fp32"]
    known = {engine.network for engine in engines}
    of_timed = [row for row in whole if row.key in known]
    return max(of_timed or whole or networks, key=lambda row: row.val_accuracy_pct)


def _loss(candidate: Candidate, best: NetworkRow) -> float:
    """Return the points of validation accuracy lost to `best`; rounded as they are shown."""
    return round(best.val_accuracy_pct - candidate.val_accuracy_pct, 2)


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
    best: NetworkRow,
    candidates: Sequence[Candidate],
    limits: Choose,
) -> str:
    what = f"{best.variant} level {best.level}, which is the most accurate"
    if not best.all_removed:
        what = f"the whole {best.variant}"
    gain = f"{-_loss(chosen, best) + 0.0:+.2f} points against {what}"
    if reference == chosen:
        gain = f"{what} itself"
    elif reference is not None:
        gain += f", {reference.latency_ms / chosen.latency_ms:.2f}× as fast"
    return f"{chosen.label}: {gain}; {_why_not_further(chosen, best, candidates, limits)}"


def _why_not_further(
    chosen: Candidate, best: NetworkRow, candidates: Sequence[Candidate], limits: Choose
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
    best: NetworkRow,
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
