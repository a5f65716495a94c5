"""The report as a list to narrow and to sort: one entry per engine that was timed."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from models.errors import ParamsError, near_matches
from pipeline.core.records import read_record
from pipeline.report.front import pareto_front
from pipeline.report.recommendation import compared_with
from pipeline.report.records import SUMMARY, Candidate, Network, NetworkRow, Summary


@dataclass(frozen=True)
class Entry:
    """A network on one backend; one that was not timed has neither backend nor latency."""

    variant: str
    level: int
    precision: str
    backend: str | None
    removed: int  # blocks that the network lacks, those removed in training included
    val_accuracy_pct: float
    lost_points: float  # of validation accuracy, to the most accurate whole network
    test_accuracy_pct: float
    latency_ms: float | None  # at the largest batch size
    ratio: float | None  # to its backend's reference, where it was in the short pass alone
    speedup: float | None  # against that whole network on the same backend
    params: int
    macs: int
    file_bytes: int  # of the engine; of the graph where there is none
    front: bool  # no engine of this backend is as fast and more accurate, or faster and as accurate
    recommended: bool


def read_summary() -> Summary:
    """Return the report.

    Raises:
        ArtifactError: it is missing, damaged, or of another version of Shoal.
    """
    return read_record(SUMMARY, Summary)


def entries(summary: Summary) -> list[Entry]:
    """Return the entries in the order of the report.

    What decides (`front`, `lost_points`) is accuracy on validation, as for the recommendation.
    """
    if not summary.networks:
        return []
    timed: dict[Network, list[Candidate]] = {}
    for engine in summary.timed:
        timed.setdefault(engine.network, []).append(engine)
    whole = compared_with(summary.networks, summary.timed)
    against = _Against(
        summary,
        whole.val_accuracy_pct,
        {engine.backend: engine.latency_ms for engine in timed.get(whole.key, ())},
        frozenset(pareto_front(summary.timed)),
    )
    return [
        _entry(network, engine, against)
        for network in summary.networks
        for engine in timed.get(network.key, (None,))
    ]


@dataclass(frozen=True)
class _Against:
    """What an entry is compared with."""

    summary: Summary
    whole_val_pct: float
    whole_ms: dict[str, float]  # by backend
    front: frozenset[Candidate]


def _entry(network: NetworkRow, engine: Candidate | None, against: _Against) -> Entry:
    engines = against.summary.engines_by_network[network.key]
    whole_ms = against.whole_ms.get(engine.backend) if engine else None
    measured = engine or network
    return Entry(
        variant=network.variant,
        level=network.level,
        precision=network.precision,
        backend=engine.backend if engine else None,
        removed=len(network.all_removed),
        val_accuracy_pct=measured.val_accuracy_pct,
        lost_points=round(against.whole_val_pct - measured.val_accuracy_pct, 2),
        test_accuracy_pct=measured.test_accuracy_pct,
        latency_ms=engine.latency_ms if engine else None,
        ratio=next((e.ratio for e in engines.values() if e.ratio), None) if not engine else None,
        speedup=whole_ms / engine.latency_ms if engine and whole_ms else None,
        params=network.params,
        macs=network.macs,
        file_bytes=engines[engine.backend].bytes if engine else network.onnx_bytes,
        front=engine in against.front,
        recommended=engine is not None and engine == against.summary.recommendation.chosen,
    )


def _missing_last(value: float | None) -> float:
    return float("inf") if value is None else value


# Best first; ties stay in the order of the report.
ORDERS: dict[str, Callable[[Entry], float]] = {
    "report": lambda entry: 0.0,
    "latency": lambda entry: _missing_last(entry.latency_ms),
    "accuracy": lambda entry: -entry.val_accuracy_pct,
    "test": lambda entry: -entry.test_accuracy_pct,
    "params": lambda entry: entry.params,
    "macs": lambda entry: entry.macs,
    "size": lambda entry: entry.file_bytes,
    "removed": lambda entry: -entry.removed,
}


def matching(
    found: Iterable[Entry], field: str, patterns: Sequence[str], known: Sequence[str]
) -> list[Entry]:
    """Return the entries whose `field` is one of `patterns`, in which ``*`` matches anything.

    Raises:
        ParamsError: a pattern fits nothing that is known.
    """
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise ParamsError(
                f"no {field} {pattern!r} in {SUMMARY}{near_matches(pattern, known)}; "
                f"there are {', '.join(known) or 'none'}"
            )
    return [
        entry
        for entry in found
        if any(fnmatch.fnmatchcase(str(getattr(entry, field)), pattern) for pattern in patterns)
    ]
