"""The plot of accuracy against latency, and the table of its Pareto front.

Accuracy is that on validation, on which the recommendation rests.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.choice import Candidate, Choice, timed
from pipeline.page.scales import Axis, linear_axis, ratio_axis
from pipeline.report import front_of
from pipeline.rows import Row, blocks_out

GLYPHS = ("circle", "diamond", "square", "triangle", "cross")  # one per precision, then again
Segment = tuple[float, float, float, float]  # x1, y1, x2, y2 in percent, y from the top


@dataclass(frozen=True)
class Point:
    """An engine on the plot; `x` and `y` in percent from the top left corner."""

    engine: Candidate
    glyph: str
    x: float
    y: float
    text: str  # a line each: what it is, accuracy, latency, blocks that are out


@dataclass(frozen=True)
class EnginePlot:
    """Everything that was timed."""

    points: list[Point]
    paths: list[tuple[Candidate, Segment]]  # from each level to the next of the same kind
    front: list[Segment]
    x: Axis
    y: Axis
    recommended: Point | None
    reference: Point | None


@dataclass(frozen=True)
class FrontLine:
    """An engine that nothing beats in both accuracy and latency."""

    engine: Candidate
    times: float | None  # as fast as the reference, where that was timed on the same backend
    recommended: bool


def glyphs(rows: Iterable[Row]) -> dict[str, str]:
    """Return the mark of each precision that was timed, in the order of the rows."""
    precisions = dict.fromkeys(row["precision"] for row in rows if row["latency_ms"])
    return {precision: GLYPHS[i % len(GLYPHS)] for i, precision in enumerate(precisions)}


def engine_plot(rows: Sequence[Row], choice: Choice) -> EnginePlot | None:
    """Lay out all engines that were timed; None where none was."""
    engines = timed(rows)
    if not engines:
        return None
    x = ratio_axis(engine.latency_ms for engine in engines)
    y = linear_axis(engine.val_accuracy_pct for engine in engines)
    marks = glyphs(rows)
    points = [
        Point(
            engine,
            marks[engine.precision],
            x.at(engine.latency_ms),
            100 - y.at(engine.val_accuracy_pct),
            _text(engine, row, choice),
        )
        for row in rows
        for engine in timed([row])
    ]
    return EnginePlot(
        points,
        _paths(points),
        _stairs(front_of(points, lambda point: point.x, lambda point: -point.y)),
        x,
        y,
        next((point for point in points if point.engine == choice.chosen), None),
        next((point for point in points if point.engine == choice.reference), None),
    )


def front_table(rows: Sequence[Row], choice: Choice) -> list[FrontLine]:
    """Return the engines that nothing beats, the fastest first."""
    reference = choice.reference
    return [
        FrontLine(
            engine,
            reference.latency_ms / engine.latency_ms
            if reference and reference.backend == engine.backend
            else None,
            engine == choice.chosen,
        )
        for engine in front_of(
            timed(rows), lambda engine: engine.latency_ms, lambda engine: engine.val_accuracy_pct
        )
    ]


def _text(engine: Candidate, row: Row, choice: Choice) -> str:
    out = blocks_out(row)
    lines = [
        engine.label,
        f"{engine.val_accuracy_pct:.2f} % on validation, {engine.test_accuracy_pct:.2f} % on test",
        f"{engine.latency_ms:.2f} ms",
        f"out: {', '.join(out)}" if out else "no block out",
    ]
    return "\n".join([*lines, "recommended"] if engine == choice.chosen else lines)


def _paths(points: Sequence[Point]) -> list[tuple[Candidate, Segment]]:
    """Join the levels of a variant in one precision on one backend."""
    kinds: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        engine = point.engine
        kinds.setdefault((engine.variant, engine.precision, engine.backend), []).append(point)
    return [(a.engine, (a.x, a.y, b.x, b.y)) for own in kinds.values() for a, b in pairwise(own)]


def _stairs(front: Sequence[Point]) -> list[Segment]:
    """Return the lines of the front, from its fastest engine to the right edge."""
    ends = [(point.x, point.y) for point in front]
    lines: list[Segment] = []
    for (x1, y1), (x2, y2) in pairwise(ends):
        lines += [(x1, y1, x2, y1), (x2, y1, x2, y2)]
    return [*lines, (*ends[-1], 100.0, ends[-1][1])]
