"""The plot of accuracy against the number of removed blocks, a line per variant."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.page.scales import Axis, linear_axis
from pipeline.rows import Row, blocks_out


@dataclass(frozen=True)
class Depth:
    """A level of a variant in float32; `x` and `y` in percent from the top left corner."""

    variant: str
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class DepthPlot:
    """The levels, and the lines between those that follow each other."""

    points: list[Depth]
    lines: list[tuple[Depth, Depth]]
    x: Axis
    y: Axis


def depth_plot(rows: Sequence[Row]) -> DepthPlot | None:
    """Lay out the levels in float32, by validation accuracy; None where there are none."""
    whole = [row for row in rows if row["precision"] == "fp32"]
    if not whole:
        return None
    x = linear_axis((len(blocks_out(row)) for row in whole), whole=True)
    y = linear_axis(row["val_accuracy_pct"] for row in whole)
    points = [
        Depth(
            row["variant"],
            x.at(len(blocks_out(row))),
            100 - y.at(row["val_accuracy_pct"]),
            _text(row),
        )
        for row in whole
    ]
    lines = [(a, b) for a, b in pairwise(points) if a.variant == b.variant]
    return DepthPlot(points, lines, x, y)


def _text(row: Row) -> str:
    accuracies = {
        "on validation": row["val_accuracy_pct"],
        "with batch norm re-estimated": row.get("val_accuracy_bn_pct"),
        "healed": row.get("val_accuracy_healed_pct"),
        "on test": row["test_accuracy_pct"],
    }
    measured = [f"{value:.2f} % {what}" for what, value in accuracies.items() if value is not None]
    out = ", ".join(blocks_out(row))
    return "\n".join(
        [
            f"{row['variant']} level {row['level']}",
            *measured,
            f"out: {out}" if out else "no block out",
        ]
    )
