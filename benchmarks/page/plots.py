"""The plots of docs/results.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from pipeline.core.artifacts import replace_file
from pipeline.report.charts.style import COLORS, SCALE, VEGA_LITE

Rows = Sequence[Mapping[str, Any]]
REPAIRS = {"identity": "as removed", "bn": "batch norm re-estimated"}


def accuracy_by_depth(groups: Mapping[str, Rows], path: Path) -> None:
    """Plot test accuracy against removed blocks, a line per setting: plainly, and with new BN.

    Lines are means over seeds, bands reach from the lowest to the highest.
    """
    data = [
        {"setting": label, "removed": depth, "repair": title, "accuracy": accuracy}
        for label, rows in groups.items()
        for row in rows
        for depth, level in enumerate(row["levels"].values())
        for repair, title in REPAIRS.items()
        for accuracy in [level.get(repair, level["identity"])]
    ]
    accuracy = alt.Y("accuracy:Q", title="test accuracy (%)", scale=alt.Scale(domain=[70, 92]))
    setting = alt.Color("setting:N", sort=list(groups), scale=alt.Scale(range=COLORS), title=None)
    base = alt.Chart().encode(
        x=alt.X("removed:O", title="blocks removed", axis=alt.Axis(labelAngle=0)), color=setting
    )
    band = base.mark_area(opacity=0.15, clip=True).encode(
        y=alt.Y("min(accuracy):Q", scale=alt.Scale(domain=[70, 92])), y2="max(accuracy):Q"
    )
    line = base.mark_line(point=True, clip=True).encode(y=accuracy.aggregate("mean"))
    panels = alt.layer(band, line, data=alt.InlineData(data)).properties(width=360, height=260)
    _write(
        panels.facet(column=alt.Column("repair:N", sort=list(REPAIRS.values()), title=None)), path
    )


def accuracy_by_way(groups: Mapping[str, Rows], path: Path) -> None:
    """Plot test accuracy at half and at full depth, a line per way: its seeds and their mean."""
    plain = next(iter(groups.values()))
    whole = statistics.mean(row["levels"]["0"]["identity"] for row in plain)
    depths = sorted(int(n) for n in plain[0]["levels"])[1:]
    panels = []
    for depth in depths:
        levels = [
            (way, row["levels"][str(depth)])
            for way, rows in groups.items()
            for row in rows
            if str(depth) in row["levels"]
        ]
        data = [
            {"way": way, "accuracy": level.get("trained", level.get("identity"))}
            for way, level in levels
        ]
        base = alt.Chart(alt.InlineData(data)).encode(
            y=alt.Y("way:N", sort=list(groups), title=None, axis=alt.Axis(labelLimit=320))
        )
        accuracy = alt.X(
            "accuracy:Q",
            title="test accuracy (%); dashed: plain training, no block removed",
            scale=alt.Scale(domain=[75, whole + 4]),
        )
        seeds = base.mark_circle(size=30, color=COLORS[0], clip=True).encode(x=accuracy)
        mean = base.mark_point(shape="diamond", filled=True, size=90, color=COLORS[0], clip=True)
        rule = alt.Chart(alt.InlineData([{"accuracy": whole}])).mark_rule(
            strokeDash=[5, 4], color=COLORS[1]
        )
        layers = seeds + mean.encode(x=accuracy.aggregate("mean")) + rule.encode(x="accuracy:Q")
        panels.append(layers.properties(title=f"{depth} blocks removed", width=330))
    _write(alt.hconcat(*panels).resolve_scale(y="shared"), path)


def _write(chart: Any, path: Path) -> None:
    with replace_file(path) as temporary:
        temporary.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), VEGA_LITE, scale=SCALE))
