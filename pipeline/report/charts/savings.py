"""What each removed block saved, as bars with their intervals: a panel per engine's levels."""

import altair as alt

from pipeline.benchmark.records import LatencySaving
from pipeline.report.charts.style import ROWS, Data, Spec, by_variant, finished
from pipeline.report.metrics import Metrics, VariantMetrics
from pipeline.report.records import Summary

TOOLTIP = [
    alt.Tooltip("label:N", title="title"),
    alt.Tooltip("removed:N", title="removed"),
    alt.Tooltip("saving:N", title="saved, ms"),
]
LABEL = "datum.panel + ', level ' + datum.level"


def savings(summary: Summary, metrics: Metrics) -> Spec | None:
    """Return the chart of the savings at the largest batch size; None where there are none."""
    data: Data = [row for variant, own in metrics.items() for row in _rows(variant, own)]
    if not data:
        return None
    y = alt.Y(
        "removed:N",
        title=None,
        sort=alt.EncodingSortField("level", op="min"),
        axis=alt.Axis(minExtent=110, maxExtent=110, labelLimit=104, domain=False, ticks=False),
    )
    x = alt.X("ms:Q", title="saved latency (ms)", axis=alt.Axis(tickCount=4))
    base = alt.Chart(ROWS).encode(y=y, x=x)
    bars = (
        base.mark_bar(opacity=0.65, cornerRadius=2)
        .encode(by_variant(summary), description="text:N", tooltip=TOOLTIP)
        .transform_calculate(label=LABEL, text="datum.label + ': ' + datum.saving + ' ms'")
    )
    whiskers = (
        base.mark_rule(style="whisker", tooltip=None)
        .encode(x="low:Q", x2="high:Q")
        .transform_filter("isValid(datum.low)")
    )
    panels = alt.layer(bars, whiskers).properties(width=220, height=alt.Step(20))
    names = list(dict.fromkeys(row["panel"] for row in data))
    chart = panels.facet(
        facet=alt.Facet("panel:N", title=None, sort=names), columns=min(3, len(names))
    )
    chart = chart.resolve_scale(y="independent").resolve_axis(x="independent")
    hidden = ["variant", "precision", "backend"]
    return finished(chart, data, hidden, cell=330, around=130, summary=summary)


def _rows(variant: str, metrics: VariantMetrics) -> Data:
    largest = max(metrics.benchmark.protocol["batch_sizes"])
    found = [saving for saving in metrics.benchmark.savings if saving.batch == largest]
    return [
        {
            "variant": variant,
            "precision": saving.precision,
            "backend": saving.backend,
            "panel": f"{variant}, {saving.precision} on {saving.backend}",
            "level": saving.level,
            "removed": ", ".join(saving.blocks),
            "ms": saving.ms,
            "saving": _text(saving),
            **({"low": saving.ms_ci[0], "high": saving.ms_ci[1]} if saving.ms_ci else {}),
        }
        for saving in found
    ]


def _text(saving: LatencySaving) -> str:
    interval = saving.ms_ci
    ends = f" (95 % {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{saving.ms:.3f}{ends}"
