"""The report as one HTML page, without anything from outside: reports/index.html.

Everything that people can name, such as variants, blocks, classes and reasons, is escaped by the
template; the page's policy lets no script run but its own and nothing be loaded.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.choice import Choice
from pipeline.page.conditions import conditions, data_facts
from pipeline.page.depth import depth_plot
from pipeline.page.engines import engine_plot, front_table, glyphs
from pipeline.page.heat import STEPS, heat_maps
from pipeline.page.ladder import MARKS, ladders
from pipeline.page.savings import savings
from pipeline.page.strips import networks
from pipeline.palette import css_color
from pipeline.rows import Row, blocks_out
from pipeline.summary_tables import depth_table, not_measured, repair_table, training_table, union

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage

TEMPLATES = Path(__file__).parent / "page" / "templates"


def report_page(
    project: str,
    rows: Sequence[Row],
    choice: Choice,
    metrics: Mapping[str, Mapping[str, Metrics]],
    data: Metrics,
    failures: Mapping[str, Mapping[str, str]],
) -> str:
    """Return the page.

    Args:
        project: the name in params.yaml.
        rows: of all variants that ran through.
        choice: what is recommended of them.
        metrics: ``{variant: {stage: metrics}}`` of the same variants.
        data: the metrics of `prepare`.
        failures: ``{variant: {"stage": …, "reason": …}}`` of those that did not.
    """
    script = Markup((TEMPLATES / "script.js").read_text(encoding="utf-8"))
    fp32 = [row for row in rows if row["precision"] == "fp32"]
    variants = list(metrics)
    return (
        _environment()
        .get_template("page.html")
        .render(
            project=project,
            script=script,
            script_hash=_hash(script),
            choice=choice,
            failures=failures,
            variants=variants,
            place={variant: index for index, variant in enumerate(variants)},
            css_color=css_color,
            heat_steps=STEPS,
            glyphs=glyphs(rows),
            backends=union(row["latency_ms"] for row in rows),
            batch=_largest_batch(metrics),
            engine_plot=engine_plot(rows, choice),
            front=front_table(rows, choice),
            blocks_out=_blocks_out(rows, choice),
            depth_plot=depth_plot(rows),
            networks=networks(rows, metrics, choice),
            heat_maps=heat_maps(metrics),
            savings=savings(metrics),
            training=training_table({variant: own["train"] for variant, own in metrics.items()}),
            repair=repair_table(fp32),
            depth=depth_table(fp32),
            ladders=ladders(metrics),
            marks=MARKS,
            data=data_facts(data),
            conditions=conditions(metrics),
            not_measured=not_measured(metrics),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bold": _bold, "short": _short}
    return environment


def _bold(cell: str) -> Markup:
    """Return a cell of a Markdown table as HTML, of which only ``**1**`` is more than text."""
    level = re.fullmatch(r"\*\*(\d+)\*\*", cell)
    return Markup("<strong>{}</strong>").format(level[1]) if level else escape(cell)


def _short(value: float) -> str:
    """Write two digits of a value in few letters: 0.12, 1.3, 6.5e-4."""
    return f"{value:.2g}" if value == 0 or value >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def _hash(script: str) -> str:
    """Return what a content security policy names a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _blocks_out(rows: Sequence[Row], choice: Choice) -> list[str]:
    """Return the blocks that the recommended network lacks."""
    return [
        name
        for row in rows
        if choice.chosen is not None
        and (row["variant"], row["level"], row["precision"])
        == (choice.chosen.variant, choice.chosen.level, choice.chosen.precision)
        for name in blocks_out(row)
    ]


def _largest_batch(metrics: Mapping[str, Mapping[str, Metrics]]) -> int | None:
    """Return the batch size of the rows' latencies; None where there are none."""
    sizes = [max(own["benchmark"]["protocol"]["batch_sizes"]) for own in metrics.values()]
    return max(sizes, default=None)
