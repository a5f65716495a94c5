"""The rows of the report as a list to narrow and to sort: one entry per engine that was timed."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import ArtifactError, ParamsError, near_matches
from pipeline.artifacts import read_json
from pipeline.choice import compared_with, timed
from pipeline.report import SUMMARY, Row, front_of
from pipeline.rows import blocks_out, engine_accuracy_pct


@dataclass(frozen=True)
class Entry:
    """A row of the report on one backend; a row that was not timed has neither it nor a latency."""

    variant: str
    level: int
    precision: str
    backend: str | None
    removed: int  # blocks that the network lacks, those that went in training included
    val_accuracy_pct: float
    lost_points: float | None  # of validation accuracy, to the most accurate whole network
    test_accuracy_pct: float
    p50_ms: float | None  # at the largest batch size
    speedup: float | None  # against that whole network on the same backend
    params: int
    macs: int
    file_bytes: int  # of the engine; of the graph where there is none
    front: bool  # no engine of this backend is as fast and more accurate, or faster and as accurate
    recommended: bool


@dataclass(frozen=True)
class _Context:
    """What an entry is compared with."""

    whole_val_pct: float | None
    whole_ms: Mapping[str, float]  # by backend
    front: frozenset[tuple[str, int]]  # backend, and the row's place in the report
    recommended: tuple[Any, ...]


def read_summary() -> tuple[list[Row], Mapping[str, Any]]:
    """Return the rows and the recommendation of the report.

    Raises:
        ArtifactError: it is missing, damaged, or of another version of Shoal.
    """
    summary = read_json(SUMMARY)
    try:
        for row in summary["rows"]:
            engine_accuracy_pct(row, None, "val")  # what rows of earlier versions lack
        return list(summary["rows"]), dict(summary["recommendation"])
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError(
            f"{SUMMARY} is not as this version writes it; `dvc repro report` does"
        ) from e


def entries(rows: Sequence[Row], recommendation: Mapping[str, Any]) -> list[Entry]:
    """Return the entries in the order of the report.

    What decides (`front`, `lost_points`) is accuracy on validation, as for the recommendation.
    """
    context = _context(rows, recommendation)
    return [
        _entry(place, row, backend, context)
        for place, row in enumerate(rows)
        for backend in row["latency_ms"] or [None]
    ]


def _context(rows: Sequence[Row], recommendation: Mapping[str, Any]) -> _Context:
    whole = compared_with(rows) if rows else None
    backends = dict.fromkeys(candidate.backend for candidate in timed(rows))
    chosen = recommendation["chosen"] or {}
    return _Context(
        whole_val_pct=whole["val_accuracy_pct"] if whole else None,
        whole_ms={name: p["p50"] for name, p in whole["latency_ms"].items()} if whole else {},
        front=frozenset((name, place) for name in backends for place in _front(rows, name)),
        recommended=tuple(chosen.get(key) for key in ("variant", "level", "precision", "backend")),
    )


def _front(rows: Sequence[Row], backend: str) -> list[int]:
    """Return the places of the rows that nothing beats in latency and accuracy on validation."""
    return front_of(
        [place for place, row in enumerate(rows) if backend in row["latency_ms"]],
        lambda place: rows[place]["latency_ms"][backend]["p50"],
        lambda place: engine_accuracy_pct(rows[place], backend, "val"),
    )


def _entry(place: int, row: Row, backend: str | None, context: _Context) -> Entry:
    p50 = row["latency_ms"][backend]["p50"] if backend else None
    val = engine_accuracy_pct(row, backend, "val")
    whole_ms = context.whole_ms.get(backend or "")
    whole_val = context.whole_val_pct
    return Entry(
        variant=row["variant"],
        level=row["level"],
        precision=row["precision"],
        backend=backend,
        removed=len(blocks_out(row)),
        val_accuracy_pct=val,
        lost_points=None if whole_val is None else round(whole_val - val, 2),
        test_accuracy_pct=engine_accuracy_pct(row, backend, "test"),
        p50_ms=p50,
        speedup=whole_ms / p50 if whole_ms and p50 else None,
        params=row["params"],
        macs=row["macs"],
        file_bytes=row["engine_bytes"].get(backend, row["onnx_bytes"]),
        front=(backend, place) in context.front,
        recommended=(row["variant"], row["level"], row["precision"], backend)
        == context.recommended,
    )


def _missing_last(value: float | None) -> float:
    return float("inf") if value is None else value


# Best first; ties stay in the order of the report.
ORDERS: dict[str, Callable[[Entry], float]] = {
    "report": lambda entry: 0.0,
    "latency": lambda entry: _missing_last(entry.p50_ms),
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
    """Return the entries whose `field` is one of `patterns`, in which ``*`` stands for anything.

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
