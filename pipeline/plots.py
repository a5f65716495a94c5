"""The report's pictures, drawn from the summary rows and the training histories."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.artifacts import replace_file
from pipeline.report import Row, pareto_front

mpl.use("Agg")

COLORS = ["#1f5fa8", "#d1603d", "#3a8f5c", "#8059a8", "#b8912f", "#4aa3b5", "#b04a78", "#6b6b6b"]
MARKERS = "osD^vPX*"
LINES = {"fp32": "solid", "fp16": "dashed", "bf16": "dotted", "int8": "dashdot"}


def accuracy_against_latency(rows: Sequence[Row], batch: int, path: Path) -> None:
    """Plot test accuracy against p50 latency with the Pareto front, one panel a timed backend."""
    backends = list(dict.fromkeys(name for row in rows for name in row["latency_ms"]))
    panels = max(1, len(backends))
    figure = Figure(figsize=(7 * panels, 4.4), layout="constrained")
    all_axes = figure.subplots(1, panels, squeeze=False)[0]
    for axes, backend in zip(all_axes[: len(backends)], backends, strict=True):
        _latency_panel(axes, rows, backend, batch)
    if not backends:
        all_axes[0].set_title("no backend could be timed here")
    _write(figure, path)


def _latency_panel(axes: Axes, rows: Sequence[Row], backend: str, batch: int) -> None:
    front = pareto_front(rows, backend)
    axes.step(
        [row["latency_ms"][backend]["p50"] for row in front],
        [row["test_accuracy_pct"] for row in front],
        where="post",
        color="#cccccc",
        linewidth=6,
        label="Pareto front",
        zorder=1,
    )
    timed = [row for row in rows if backend in row["latency_ms"]]
    for name, own, style in _by_variant(timed):
        for precision in dict.fromkeys(row["precision"] for row in own):
            drawn = [row for row in own if row["precision"] == precision]
            x = [row["latency_ms"][backend]["p50"] for row in drawn]
            y = [row["test_accuracy_pct"] for row in drawn]
            line = {"linewidth": 0.8, "linestyle": LINES[precision], **style}
            axes.plot(x, y, label=f"{name}, {precision}", **line)
            _number(axes, x, y, drawn)
    _finish(axes, f"p50 latency at batch {batch}, {backend} (ms)", "test accuracy (%)")
    axes.set_title("Accuracy against latency (numbers: blocks removed)")


def accuracy_against_removed(rows: Sequence[Row], path: Path) -> None:
    """Plot test accuracy in float32 against the number of removed blocks, one line per variant."""
    rows = [row for row in rows if row["precision"] == "fp32"]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, own, style in _by_variant(rows):
        axes.plot(
            [row["level"] for row in own],
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
    """Plot the max-sliced Wasserstein distance per block over the epochs, one panel a variant."""
    figure = Figure(figsize=(3.8 * len(histories), 3.9), layout="constrained")
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axes, (variant, epochs) in zip(panels, histories.items(), strict=True):
        for index, block in enumerate(epochs[-1]["distances"]):
            axes.plot(
                [epoch["epoch"] for epoch in epochs],
                [epoch["distances"][block] for epoch in epochs],
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
        if 0 < len(epochs[-1]["distances"]) <= 2 * len(COLORS):
            axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel("max-sliced Wasserstein distance")
    _write(figure, path)


def _by_variant(rows: Sequence[Row]) -> list[tuple[str, list[Row], dict[str, Any]]]:
    """Return each variant's rows with the line style that is its own in every plot."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    return [
        (
            name,
            [row for row in rows if row["variant"] == name],
            {
                "color": COLORS[index % len(COLORS)],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 5,
            },
        )
        for index, name in enumerate(names)
    ]


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _number(axes: Axes, x: Sequence[float], y: Sequence[float], rows: Sequence[Row]) -> None:
    for across, up, row in zip(x, y, rows, strict=True):
        axes.annotate(
            str(row["level"]), (across, up), (4, 4), textcoords="offset points", fontsize=8
        )


def _write(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
