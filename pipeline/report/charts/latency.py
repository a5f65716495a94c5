"""Validation accuracy against latency: every engine that was timed, a panel per backend.

The Pareto front is that of `pipeline.report.front`, computed in the chart so that it follows what
is shown.
"""

from typing import Any

import altair as alt

from pipeline.report.charts.style import ROWS, Data, Spec, by_variant, emphasis, finished, nothing
from pipeline.report.front import named
from pipeline.report.records import EngineRow, Summary

TITLE = "Validation accuracy against latency"
SUBTITLE = (
    "Numbers: removed blocks. Thin ring: the level chosen by the plan. Thick ring: recommended. "
    "Grey: Pareto front."
)
RECOMMENDED, REFERENCE = "recommended", "whole network"  # notes beside a point
SHAPES = ["circle", "diamond", "square", "triangle-up", "cross"]  # of precisions, in their order
ORDER: list[alt.SortField | dict[str, str]] = [
    alt.SortField("ms"),
    alt.SortField("val", order="descending"),
]
WORDS = {
    "label": "datum.variant + ' level ' + datum.level + ', ' + datum.precision + ' on ' + "
    "datum.backend",
    "text": "datum.label + ': ' + format(datum.val, '.2f') + ' % on validation, ' + "
    "format(datum.test, '.2f') + ' % on test, ' + datum.latency + ' ms, removed blocks: ' + "
    "datum.blocks + (datum.note ? ', ' + datum.note : '')",
}
TOOLTIP = [
    alt.Tooltip("label:N", title="title"),
    alt.Tooltip("val:Q", title="validation accuracy, %", format=".2f"),
    alt.Tooltip("test:Q", title="test accuracy, %", format=".2f"),
    alt.Tooltip("latency:N", title="latency, ms"),
    alt.Tooltip("blocks:N", title="removed blocks"),
    alt.Tooltip("note:N", title="marked"),
]


def accuracy_against_latency(summary: Summary, batch: int) -> Spec:
    """Return the chart; a message where nothing was timed.

    Args:
        summary: the report.
        batch: size of the batches that were timed.
    """
    data = _data(summary)
    if not data:
        return nothing("No engine was timed.")
    x = alt.X(
        "ms:Q",
        title=f"latency at batch size {batch} (ms, log scale)",
        scale=alt.Scale(type="log", nice=False, padding=26),
        axis=alt.Axis(format="~g", labelOverlap="parity", tickCount=8),
    )
    y = alt.Y("val:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False, padding=18))
    base = alt.Chart(ROWS).encode(x, y)
    layers = [_front(base), *_engines(base.encode(by_variant(summary)), data), *_notes(base)]
    panels = alt.layer(*layers).properties(width=620, height=340)
    backend = alt.Facet("backend:N", title=None, sort=summary.timed_backends())
    chart = panels.facet(facet=backend, columns=1)
    chart = chart.resolve_scale(x="independent").resolve_axis(y="independent")
    return finished(chart, data, ["variant", "precision", "backend"], around=64, summary=summary)


def _front(base: alt.Chart) -> Any:
    """Return the steps through every engine that is more accurate than all faster ones."""
    line = base.mark_line(style="front", interpolate="step-after", strokeJoin="round")
    so_far = line.transform_window(
        best="max(val)", sort=ORDER, frame=[None, 0], groupby=["backend"]
    )
    before = so_far.transform_window(faster="lag(best)", sort=ORDER, groupby=["backend"])
    return before.transform_filter("datum.faster == null || datum.val > datum.faster")


def _engines(base: alt.Chart, data: Data) -> list[alt.Chart]:
    """Return the engines as points, joined level by level, with rings and numbers."""
    precisions = list(dict.fromkeys(row["precision"] for row in data))
    marks = [SHAPES[place % len(SHAPES)] for place in range(len(precisions))]
    shape = alt.Shape("precision:N", scale=alt.Scale(domain=precisions, range=marks))
    return [
        base.mark_line(strokeWidth=1.2).encode(
            opacity=emphasis(0.4), order="level:Q", detail="precision:N"
        ),
        base.mark_point(size=240, strokeWidth=1.2, shape="circle", aria=False)
        .encode(opacity=emphasis(0.8))
        .transform_filter("datum.chosen"),
        base.mark_point(filled=True, size=70)
        .encode(shape, opacity=emphasis(), description="text:N", tooltip=TOOLTIP)
        .transform_calculate(**WORDS),
        base.mark_text(dy=-16, fontSize=11)
        .encode(text="removed:Q")
        .transform_filter("datum.numbered"),
    ]


def _notes(base: alt.Chart) -> list[alt.Chart]:
    """Return the ring around the recommended engine, and the notes beside it and its reference."""
    recommended, reference = (f"datum.note == '{note}'" for note in (RECOMMENDED, REFERENCE))
    ring = base.mark_point(style="ring", size=420, shape="circle", aria=False)
    text = base.encode(text="note:N")
    return [
        ring.transform_filter(recommended),
        text.mark_text(style="note", dy=-20, align="left", dx=-8).transform_filter(recommended),
        text.mark_text(style="note", dy=-20, align="right", dx=8).transform_filter(reference),
    ]


def _data(summary: Summary) -> Data:
    names, networks = set(named(summary)), {row.key: row for row in summary.networks}
    few = len(names) == len({row.variant for row in summary.networks})  # room for numbers
    choice = summary.recommendation
    notes = {choice.reference: REFERENCE, choice.chosen: RECOMMENDED}
    return [
        {
            "variant": engine.variant,
            "level": engine.level,
            "precision": engine.precision,
            "backend": engine.backend,
            "removed": engine.removed,
            "blocks": network.removed_text or "none",
            "val": engine.val_accuracy_pct,
            "test": engine.test_accuracy_pct,
            "ms": engine.latency_ms,
            "latency": _latency(summary.engines_by_network[engine.network][engine.backend]),
            "chosen": network.chosen and engine.variant in names,
            "named": engine.variant in names,
            "numbered": few and engine.precision == "fp32" and engine not in notes,
            "note": notes.get(engine, ""),
        }
        for engine in summary.timed
        for network in [networks[engine.network]]
    ]


def _latency(engine: EngineRow) -> str:
    interval = engine.quiet_ci_ms
    ends = f" (95 % {interval[0]:.2f}–{interval[1]:.2f})" if interval else ""
    return f"{engine.quiet_ms:.2f}{ends}, p50 {engine.p50_ms:.2f}"
