"""The report's pictures, drawn from the summary rows and the training histories."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.artifacts import replace_file
from pipeline.palette import COLORS
from pipeline.report import Row, pareto_front
from pipeline.rows import blocks_out, engine_accuracy_pct

mpl.use("Agg")

MARKERS = "osD^vPX*"
LABEL_IN, LETTER_IN = 0.67, 0.083  # of a legend: around a label, and of each of its letters
MANY = len(COLORS)  # variants that have a style of their own
FAINT = {"color": "#d5d5d5", "linewidth": 0.6, "marker": ".", "markersize": 2, "zorder": 0}


def accuracy_against_latency(rows: Sequence[Row], batch: int, path: Path) -> None:
    """Plot test accuracy against p50 latency, a panel for each timed backend and precision.

    The panels of a backend lie in a row, share their axes and all show the Pareto front of its
    engines in whatever precision.
    """
    backends = list(dict.fromkeys(name for row in rows for name in row["latency_ms"]))
    timed = [row for row in rows if row["latency_ms"]]
    precisions = list(dict.fromkeys(row["precision"] for row in timed))
    down, across = max(1, len(backends)), max(1, len(precisions))
    figure = Figure(figsize=(max(7, 3.2 * across), 0.9 + 3.2 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex="row", sharey=True)
    for panels, backend in zip(grid[: len(backends)], backends, strict=True):
        front = pareto_front(rows, backend)
        for axes, precision in zip(panels, precisions, strict=True):
            _latency_panel(axes, rows, backend, precision, front)
            axes.set_title(f"{precision}, {backend}")
        panels[0].set_ylabel("test accuracy (%)")
        for axes in panels:
            axes.set_xlabel(f"p50 at batch {batch} (ms)")
    figure.suptitle(
        "Accuracy against latency (numbers: blocks removed; ringed: the chosen level)"
        if backends
        else "no backend could be timed here",
        fontsize="medium",
    )
    _legend_below(figure)
    _write(figure, path)


def _latency_panel(
    axes: Axes, rows: Sequence[Row], backend: str, precision: str, front: Sequence[Row]
) -> None:
    def point(row: Row) -> tuple[float, float]:
        return row["latency_ms"][backend]["p50"], engine_accuracy_pct(row, backend, "test")

    label = "Pareto front, all precisions"
    x, y = zip(*map(point, front), strict=True)
    axes.step(x, y, where="post", color="#cccccc", linewidth=5, label=label, zorder=1)
    timed = [r for r in rows if r["precision"] == precision and backend in r["latency_ms"]]
    if not timed:
        axes.text(0.5, 0.5, "not timed", ha="center", transform=axes.transAxes)
    for name, own, style in _by_variant(timed, named(rows)):
        axes.plot(*zip(*map(point, own), strict=True), label=name, **({"linewidth": 1} | style))
        for row in own if style is not FAINT else ():
            if row["chosen"]:
                axes.plot(*point(row), "o", markersize=11, fillstyle="none", color=style["color"])
            if row["chosen"] or row in (own[0], own[-1]):  # those between are easily counted
                _number(axes, point(row), len(blocks_out(row)), style["color"])
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.25)


def _legend_below(figure: Figure) -> None:
    """Explain each line once, however many panels it is in."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=_legend_columns(list(entries), figure.get_figwidth()),
            frameon=False,
        )


def _legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Return into how many columns the labels go, parted as Matplotlib does; at most five."""
    for columns in range(min(len(labels), 5), 1, -1):
        parts = np.array_split(list(map(len, labels)), columns)
        longest = [int(part.max()) for part in parts]
        if sum(LABEL_IN + LETTER_IN * letters for letters in longest) <= width_in:
            return columns
    return 1


def accuracy_against_removed(rows: Sequence[Row], path: Path) -> None:
    """Plot test accuracy in float32 against the number of removed blocks, one line per variant."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    fp32 = [row for row in rows if row["precision"] == "fp32"]
    for name, own, style in _by_variant(fp32, named(rows)):
        axes.plot(
            [len(blocks_out(row)) for row in own],
            [row["test_accuracy_pct"] for row in own],
            label=name,
            **style,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Accuracy against removed blocks")
    _finish(axes, "blocks removed", "test accuracy (%)")
    _write(figure, path)


def distance_over_training(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path
) -> None:
    """Plot the max-sliced Wasserstein distance per block over the epochs, one panel a variant.

    The line of a block that leaves the network ends there.
    """
    figure = Figure(figsize=(3.8 * len(histories), 3.9), layout="constrained")
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axes, (variant, epochs) in zip(panels, histories.items(), strict=True):
        for index, block in enumerate(epochs[0]["distances"]):
            there = [epoch for epoch in epochs if block in epoch["distances"]]
            axes.plot(
                [epoch["epoch"] for epoch in there],
                [epoch["distances"][block] for epoch in there],
                label=block,
                color=COLORS[index % len(COLORS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
            )
        axes.set_title(variant)
        axes.set_xlabel("epoch")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if 0 < len(epochs[0]["distances"]) <= 2 * len(COLORS):
            axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel("max-sliced Wasserstein distance")
    _write(figure, path)


def named(rows: Sequence[Row]) -> list[str]:
    """Return the variants that have a colour and a name of their own: all, up to `MANY`.

    Of more it is those that most often stand on a Pareto front; the first where there is none.
    """
    variants = dict.fromkeys(row["variant"] for row in rows)
    if len(variants) <= MANY:
        return list(variants)
    backends = dict.fromkeys(name for row in rows for name in row["latency_ms"])
    fronts = (row["variant"] for backend in backends for row in pareto_front(rows, backend))
    ranked = [variant for variant, _ in Counter(fronts).most_common(MANY)]
    best = ranked or list(variants)[:MANY]
    return [variant for variant in variants if variant in best]


def _by_variant(
    rows: Sequence[Row], names: Sequence[str]
) -> list[tuple[str, list[Row], dict[str, Any]]]:
    """Return each variant's rows with the line style that is its own in every plot.

    Those that are not in `names` come first, to lie below, and share a style and a name.
    """
    by_variant: dict[str, list[Row]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row)
    rest = [own for name, own in by_variant.items() if name not in names]
    # A label with an underscore has no entry in the legend: one for all is enough.
    others = [(f"{'_' * bool(n)}{len(rest)} others", own, FAINT) for n, own in enumerate(rest)]
    styles = [
        {"color": color, "marker": marker, "markersize": 5}
        for color, marker in zip(COLORS, MARKERS, strict=True)
    ]
    return others + [
        (name, by_variant[name], style)
        for name, style in zip(names, itertools.cycle(styles), strict=False)
        if name in by_variant
    ]


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _number(axes: Axes, point: tuple[float, float], number: int, color: str) -> None:
    axes.annotate(
        str(number), point, (0, 7), textcoords="offset points", ha="center", fontsize=8, color=color
    )


def _write(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
