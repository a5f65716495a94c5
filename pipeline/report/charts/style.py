"""What the charts have in common: colours, look, data beside the specification, pictures.

A specification takes its data from `datasets`. It has a parameter ``hidden_<field>`` for each of
its fields that the page filters by: a list of the values to hide.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from pipeline.core.artifacts import replace_file
from pipeline.report.front import NAMED, named
from pipeline.report.records import Summary

Spec = dict[str, Any]  # Vega-Lite, as JSON
Data = list[dict[str, Any]]
ROWS = alt.NamedData("rows")

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
# Okabe and Ito's colours, which colour-blind readers can distinguish, and two more.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8059a8", "#7f7f7f"]
GOLDEN_ANGLE_DEG = 137.508  # hues in these steps never come close to each other soon
FAINT = 0.18  # opacity of variants without a name of their own
SCALE = 2  # pixels of a picture per unit of the specification

PRINT = {  # the page's colours by the names of its style sheet, as they are on white
    "ink": "#1b2529",
    "soft": "#5d6a70",
    "line": "#e2e6e3",
    "accent": "#0e6175",
    "front": "#cfdadd",
    "empty": "#f1f3f1",
    "surface": "#ffffff",
}
PAGE = {name: f"var(--{name})" for name in PRINT}  # follows the browser's dark or light scheme


def look(colors: Mapping[str, str], font: str) -> Spec:
    """Return the configuration of all charts, in these colours."""
    ink, soft, line = colors["ink"], colors["soft"], colors["line"]
    labels = {"labelFontSize": 12, "titleFontSize": 12, "labelColor": soft, "titleColor": soft}
    axis = {"titleFontWeight": "normal", "titlePadding": 8, "labelPadding": 5}
    return {
        "font": font,
        "view": {"stroke": None},
        "axis": labels | axis | {"gridColor": line, "domainColor": line, "tickColor": line},
        "legend": labels
        | {"orient": "bottom", "titleOrient": "left", "columns": 5}
        | {"symbolSize": 90, "symbolOpacity": 1, "symbolLimit": NAMED + 1},
        "header": {"labelFontSize": 13, "labelFontWeight": 600, "labelColor": ink}
        | {"labelAnchor": "start", "labelLimit": 225},
        "title": {"anchor": "start", "fontSize": 15, "color": ink, "offset": 14}
        | {"subtitleColor": soft, "subtitleFontSize": 12, "subtitlePadding": 6},
        "style": {
            "front": {"color": colors["front"], "strokeWidth": 7},
            "ring": {"color": colors["accent"], "strokeWidth": 2.5},
            "whisker": {"color": ink, "strokeWidth": 1.5},
            "empty": {"color": colors["empty"], "stroke": colors["surface"]},
            "cell": {"stroke": colors["surface"]},
            "note": {"color": ink, "fontWeight": 600, "fontSize": 12},
        },
    }


def color(index: int) -> str:
    """Return the colour of a variant by its place in the order; no two are the same."""
    if index < len(COLORS):
        return COLORS[index]
    return f"hsl({index * GOLDEN_ANGLE_DEG % 360:.0f}, 45%, 47%)"


def by_variant(summary: Summary) -> alt.Color:
    """Return the encoding of variants by colour; those with a name come first in the legend."""
    return alt.Color("variant:N", scale=alt.Scale(domain=_order(summary)))


def _order(summary: Summary) -> list[str]:
    return list(dict.fromkeys([*named(summary), *(row.variant for row in summary.networks)]))


def emphasis(shown: float = 1.0) -> Any:
    """Return the opacity that makes variants without a name faint while no variant is hidden."""
    clear = "datum.named || length(hidden_variant) > 0"
    return alt.condition(clear, alt.value(shown), alt.value(FAINT * shown))


def finished(
    chart: Any,
    data: Data,
    hidden: Sequence[str],
    *,
    cell: int = 0,
    around: int = 0,
    summary: Summary | None = None,
) -> Spec:
    """Return the specification of a chart of the data set ``rows``.

    Args:
        chart: of Altair.
        data: its rows.
        hidden: the fields by which the page filters.
        cell: the least width of a panel on the page, in pixels; 0: panels are never side by side.
        around: what a panel takes beside its own width, for its axis.
        summary: with the variants, of a chart that has a colour for each.
    """
    spec: Spec = chart.to_dict(validate=False)  # the tests do; it takes a second
    filters = [{"filter": f"indexof(hidden_{field}, datum.{field}) < 0"} for field in hidden]
    variants = list(dict.fromkeys(row.variant for row in summary.networks)) if summary else []
    places = [variants.index(name) for name in (_order(summary) if summary else ())]
    return spec | {
        "datasets": {"rows": data},
        "params": [{"name": f"hidden_{field}", "value": []} for field in hidden],
        "transform": [*filters, *spec.get("transform", [])],
        "usermeta": {"cell": cell, "around": around, "variants": places},
    }


def nothing(text: str) -> Spec:
    """Return a text in place of a chart."""
    chart = alt.Chart(ROWS).mark_text(fontSize=14).encode(text="text:N")
    return finished(chart.properties(width=420, height=60), [{"text": text}], [])


def for_page(spec: Spec, *, legend: bool) -> Spec:
    """Return a specification in the page's colours; without legend where names to click are it."""
    config = look(PAGE, "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif")
    config["legend"]["disable"] = not legend
    return _colored(spec, config | {"background": "transparent"}, "var(--v{})".format)


def write_picture(spec: Spec, path: Path, title: str, subtitle: str) -> None:
    """Draw a specification as a PNG; the same specification gives the same bytes."""
    import vl_convert  # starts an engine that would not live on in a fork

    titled = spec | {"title": {"text": title, "subtitle": subtitle}, "padding": 12}
    printed = _colored(titled, look(PRINT, "Liberation Sans, Arial, sans-serif"), color)
    with replace_file(path) as temporary:
        temporary.write_bytes(vl_convert.vegalite_to_png(printed, VEGA_LITE, scale=SCALE))


def _colored(spec: Spec, config: Spec, own: Callable[[int], str]) -> Spec:
    """Return a specification with a configuration, and with the colour `own` of every variant."""
    range_ = [own(place) for place in spec["usermeta"]["variants"]]
    return spec | {"config": config | {"range": {"category": range_}} if range_ else config}
