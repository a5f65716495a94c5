"""What each removed block saved, as bars with their intervals, at the largest batch size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage


@dataclass(frozen=True)
class Bar:
    """A level against the one before; places in percent of the bars' common width."""

    blocks: str
    level: int
    ms: float
    interval: tuple[float, float] | None
    left: float
    width: float
    whisker: tuple[float, float] | None  # left and width


@dataclass(frozen=True)
class EngineSavings:
    """The bars of a variant in one precision on one backend."""

    precision: str
    backend: str
    bars: list[Bar]


def savings(metrics: Mapping[str, Mapping[str, Metrics]]) -> dict[str, list[EngineSavings]]:
    """Return the bars of every variant that has some; all are drawn to one scale."""
    found = {variant: _found(own["benchmark"]) for variant, own in metrics.items()}
    values = [
        value
        for by_engine in found.values()
        for steps in by_engine.values()
        for _, step in steps
        for value in (step["ms"], *(step["ms_ci"] or ()))
    ]
    low, high = min([0.0, *values]), max([0.0, *values])
    span = high - low or 1.0
    return {
        variant: [
            EngineSavings(precision, backend, [_bar(at, step, low, span) for at, step in steps])
            for (precision, backend), steps in by_engine.items()
        ]
        for variant, by_engine in found.items()
        if by_engine
    }


def _found(benchmark: Metrics) -> dict[tuple[str, str], list[tuple[int, Metrics]]]:
    """Return by precision and backend the savings at the largest batch, level by level."""
    largest = str(max(benchmark["protocol"]["batch_sizes"]))
    found: dict[tuple[str, str], list[tuple[int, Metrics]]] = {}
    for level in benchmark["levels"]:
        for precision, by_backend in level["saved_ms"].items():
            for backend, by_batch in by_backend.items():
                if largest in by_batch:
                    step = (level["level"], by_batch[largest])
                    found.setdefault((precision, backend), []).append(step)
    return found


def _bar(level: int, step: Metrics, low: float, span: float) -> Bar:
    def at(value: float) -> float:
        return 100 * (value - low) / span

    ms, interval = step["ms"], step["ms_ci"]
    start, end = sorted([at(0.0), at(ms)])
    whisker = (at(interval[0]), at(interval[1]) - at(interval[0])) if interval else None
    name = ", ".join(step["blocks"])
    ends = (interval[0], interval[1]) if interval else None
    return Bar(name, level, ms, ends, start, end - start, whisker)
