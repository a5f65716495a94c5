"""The plots of docs/results.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.artifacts import replace_file

mpl.use("Agg")

Rows = Sequence[Mapping[str, Any]]


def accuracy_by_depth(groups: Mapping[str, Rows], path: Path) -> None:
    """Plot test accuracy against removed blocks, a line per setting: plainly, and with new BN."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, repair in zip(panels, ("identity", "bn"), strict=True):
        for label, rows in groups.items():
            levels = [list(row["levels"].values()) for row in rows]
            values = [
                [level.get(repair, level["identity"]) for level in own]
                for own in zip(*levels, strict=True)
            ]
            _line(axes, range(len(values)), values, label)
        axes.set_xlabel("blocks removed")
        axes.set_title("as removed" if repair == "identity" else "batch norm re-estimated")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].set_ylim(bottom=70)
    panels[1].legend(fontsize="x-small")
    _write(figure, path)


def accuracy_by_way(groups: Mapping[str, Rows], path: Path) -> None:
    """Plot test accuracy at half and at full depth, a line per way: its seeds and their mean."""
    figure = Figure(figsize=(9, 0.8 + 0.32 * len(groups)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    plain = next(iter(groups.values()))
    whole = statistics.mean(row["levels"]["0"]["identity"] for row in plain)
    depths = sorted(int(n) for n in plain[0]["levels"])[1:]
    for axes, depth in zip(panels, depths, strict=True):
        for position, rows in enumerate(groups.values()):
            levels = [row["levels"][str(depth)] for row in rows if str(depth) in row["levels"]]
            values = [level.get("trained", level.get("identity")) for level in levels]
            if values:
                axes.plot(values, [position] * len(values), ".", color="#1f5fa8", markersize=5)
                axes.plot(statistics.mean(values), position, "D", color="#1f5fa8", markersize=6)
        axes.axvline(whole, color="#d1603d", linestyle="--", linewidth=1)
        axes.set_xlim(left=75, right=whole + 4)
        axes.grid(alpha=0.25)
        axes.set_title(f"{depth} blocks out")
        axes.set_xlabel("test accuracy (%); dashed: plain training, whole")
    panels[0].set_yticks(range(len(groups)), list(groups), fontsize="x-small")
    panels[0].invert_yaxis()
    _write(figure, path)


def _line(axes: Any, x: Sequence[int], values: Sequence[Sequence[float]], label: str) -> None:
    means = [statistics.mean(own) for own in values]
    (line,) = axes.plot(x, means, marker="o", markersize=3, label=label)
    low, high = [min(own) for own in values], [max(own) for own in values]
    axes.fill_between(x, low, high, alpha=0.15, color=line.get_color())


def _write(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
