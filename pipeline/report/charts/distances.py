"""How far each block is from the identity, as heat maps over the epochs of training.

The distance is the max-sliced Wasserstein distance of training; the displacement is
E|f(x) − x| / E|x|, which `score` measures after it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np

from pipeline.report.block_order import in_order
from pipeline.report.charts.style import ROWS, Data, Spec, finished, nothing
from pipeline.report.metrics import Metrics, VariantMetrics

TITLE = "How far each block is from the identity"
SUBTITLE = (
    "Max-sliced Wasserstein distance of a block's output to its input, per epoch of training. "
    "Last column: displacement E|f(x) − x| / E|x|."
)
DISPLACEMENT = "displ."  # the last column
MOST_EPOCHS = 24  # columns; longer trainings are shown at evenly spaced epochs
FEW = 4  # columns whose cells have room for their value

RAMP = ["#e6f2f1", "#7fb4ba", "#0c4a5c"]  # from near the identity to far from it
DARK = "datum.shade > 0.6"
LABEL = "datum.block + (datum.epoch ? ', epoch ' + datum.epoch + ', distance' : ', displacement')"
TOOLTIP = [alt.Tooltip("label:N", title="title"), alt.Tooltip("shown:N", title="value")]


def distances(metrics: Metrics) -> Spec:
    """Return the heat maps, one per variant; all have the same scales of colour."""
    data: Data = [row for name, own in metrics.items() for row in _rows(name, own)]
    if not data:
        return nothing("No block was compared.")
    low, high = _set_shades([row for row in data if row["epoch"]])
    _set_shades([row for row in data if not row["epoch"]])
    epochs = sorted({row["epoch"] for row in data if row["epoch"]})
    base = alt.Chart(ROWS).encode(
        alt.X(
            "column:N",
            title="epoch",
            sort=[*map(str, epochs), DISPLACEMENT],
            axis=alt.Axis(labelAngle=0, labelOverlap=True, domain=False, ticks=False),
        ),
        alt.Y(
            "block:N",
            title=None,
            sort=alt.EncodingSortField("place", op="min"),
            axis=alt.Axis(minExtent=80, maxExtent=80, labelLimit=76, domain=False, ticks=False),
        ),
    )
    panels = alt.layer(
        base.mark_rect(style="empty")
        .encode(description="label:N", tooltip=TOOLTIP)
        .transform_calculate(label=LABEL),
        base.mark_rect(style="cell", tooltip=None)
        .encode(_shade(low, high))
        .transform_filter("isValid(datum.shade)"),
        base.mark_text(fontSize=11)
        .encode(text="text:N", color=alt.condition(DARK, alt.value("#fff"), alt.value("#16303a")))
        .transform_filter("datum.text != ''"),
    )
    chart = (
        panels.properties(width=230, height=alt.Step(26))
        .facet(
            facet=alt.Facet("variant:N", title=None, sort=list(metrics)),
            columns=min(3, len(metrics)),
        )
        .resolve_scale(x="independent", y="independent")
    )
    return finished(chart, data, ["variant"], cell=330, around=104)


def _shade(low: float, high: float) -> alt.Color:
    """Return the encoding of distances from `low` to `high` on a logarithmic scale."""
    return alt.Color(
        "shade:Q",
        scale=alt.Scale(domain=[0, 0.5, 1], range=RAMP, interpolate="lab"),
        legend=alt.Legend(
            title="distance (log scale)",
            titleOrient="top",
            values=[0, 0.25, 0.5, 0.75, 1],
            labelExpr=f"format({low} * pow({high / low}, datum.value), '.2~g')",
            gradientLength=220,
        ),
    )


def _rows(variant: str, metrics: VariantMetrics) -> Data:
    """Return a row per block and epoch, and one per block for its displacement."""
    epochs = metrics.train.epochs
    shown = [epochs[i] for i in _evenly(len(epochs))]
    guards = metrics.score.guards
    measured = dict.fromkeys(name for epoch in epochs for name in epoch["distances"])
    names = in_order(measured, guards.keys() - measured.keys())
    few = len(shown) <= FEW
    return [
        {"variant": variant, "block": name, "place": place, **cell}
        for place, name in enumerate(names)
        for cell in (
            *(_cell(e["epoch"], e["distances"].get(name), text=few) for e in shown),
            _cell(None, guards[name].displacement if name in guards else None, text=True),
        )
    ]


def _evenly(count: int) -> Sequence[int]:
    """Return up to `MOST_EPOCHS` places among `count`, with the first and the last."""
    places = np.linspace(0, count - 1, min(count, MOST_EPOCHS))
    return [int(place) for place in places.round()]


def _cell(epoch: int | None, value: float | None, *, text: bool) -> dict[str, Any]:
    return {
        "column": str(epoch or DISPLACEMENT),
        "epoch": epoch,
        "value": value,
        "text": "" if value is None or not text else _short(value),
        "shown": "none" if value is None else f"{value:.3g}",
    }


def _short(value: float) -> str:
    """Write two digits of a value in few letters: 0.12, 1.3, 6.5e-4."""
    return f"{value:.2g}" if value == 0 or value >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def _set_shades(rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Add to each row its colour, from 0 to 1 by the logarithm; return where these two are.

    Zeros have the colour of the smallest positive value.
    """
    known = [row for row in rows if row["value"] is not None]
    positive = [row["value"] for row in known if row["value"] > 0] or [1.0]
    low, high = min(positive), max(positive)
    span = math.log(high / low) or 1.0
    for row in known:
        row["shade"] = round(math.log(max(row["value"], low) / low) / span, 4)
    return low, high
