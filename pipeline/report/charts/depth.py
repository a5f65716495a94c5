"""Validation accuracy against the number of removed blocks, a line per variant."""

import altair as alt

from pipeline.report.charts.style import ROWS, Data, Spec, by_variant, emphasis, finished, nothing
from pipeline.report.front import named
from pipeline.report.records import NetworkRow, Summary

TITLE = "Validation accuracy against removed blocks"
SUBTITLE = (
    "Levels in float32, blocks removed in training counted. Ring: the level chosen by the plan."
)

REPAIRS = {"batch_norm": "with batch norm re-estimated, %", "healed": "healed, %"}
WORDS = {
    "label": "datum.variant + ' level ' + datum.level",
    "text": "datum.label + ': ' + format(datum.val, '.2f') + ' % on validation, ' + "
    "format(datum.test, '.2f') + ' % on test, removed blocks: ' + datum.blocks",
}
TOOLTIP = [
    alt.Tooltip("label:N", title="title"),
    alt.Tooltip("val:Q", title="validation accuracy, %", format=".2f"),
    *(alt.Tooltip(f"{name}:N", title=title) for name, title in REPAIRS.items()),
    alt.Tooltip("test:Q", title="test accuracy, %", format=".2f"),
    alt.Tooltip("blocks:N", title="removed blocks"),
]


def accuracy_against_removed(summary: Summary) -> Spec:
    """Return the chart of the levels in float32; a message where there are none."""
    names = set(named(summary))
    data: Data = [_row(row, names) for row in summary.networks if row.precision == "fp32"]
    if not data:
        return nothing("No network in float32.")
    base = alt.Chart(ROWS).encode(
        alt.X(
            "removed:Q",
            title="removed blocks",
            scale=alt.Scale(nice=False, zero=False, padding=18),
            axis=alt.Axis(tickMinStep=1, format="d"),
        ),
        alt.Y("val:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False, padding=14)),
        by_variant(summary),
    )
    chart = alt.layer(
        base.mark_line(strokeWidth=2).encode(opacity=emphasis(), order="level:Q"),
        base.mark_point(size=220, strokeWidth=1.2, aria=False)
        .encode(opacity=emphasis(0.8))
        .transform_filter("datum.chosen"),
        base.mark_point(filled=True, size=60, opacity=1)
        .encode(opacity=emphasis(), description="text:N", tooltip=TOOLTIP)
        .transform_calculate(**WORDS),
    ).properties(width=620, height=280)
    return finished(chart, data, ["variant"], around=64, summary=summary)


def _row(row: NetworkRow, names: set[str]) -> dict[str, object]:
    repaired = {
        name: f"{row.val_accuracy_by_repair_pct[name]:.2f}"
        if name in row.val_accuracy_by_repair_pct
        else "–"
        for name in REPAIRS
    }
    return {
        "variant": row.variant,
        "level": row.level,
        "removed": len(row.all_removed),
        "blocks": row.removed_text or "none",
        "val": row.val_accuracy_pct,
        "test": row.test_accuracy_pct,
        "chosen": row.chosen and row.variant in names,
        "named": row.variant in names,
        **repaired,
    }
