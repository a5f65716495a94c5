"""The report as one HTML page, without anything from outside: reports/index.html.

Everything that people can name, such as variants, blocks, classes and reasons, is escaped by the
template, or is data of a chart; the page's policy lets no script run but its own two (Vega, which
draws the charts, and script.js) and nothing be loaded.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.core.artifacts import CACHE, replace_file
from pipeline.data.records import Prepared
from pipeline.report.charts.style import VEGA_LITE, Spec, color, for_page
from pipeline.report.front import pareto_front
from pipeline.report.markdown import depth_table, not_measured, repair_table, training_table
from pipeline.report.metrics import Metrics, largest_batch
from pipeline.report.page.conditions import data_facts, facts, machine_facts
from pipeline.report.page.parity import MARKS, chains
from pipeline.report.page.strips import block_diagrams
from pipeline.report.records import Summary

TEMPLATES = Path(__file__).parent / "templates"


def report_page(
    project: str,
    summary: Summary,
    metrics: Metrics,
    charts: Mapping[str, Spec],
    data: Prepared,
) -> str:
    """Return the page.

    Args:
        project: the name in params.yaml.
        summary: the report.
        metrics: of the variants in it.
        charts: by the ids of their places.
        data: what `prepare` wrote of the images.
    """
    scripts = [Markup(vega()), Markup((TEMPLATES / "script.js").read_text(encoding="utf-8"))]
    chosen = summary.recommendation.chosen
    run = next((own.benchmark for own in metrics.values()), None)
    fp32 = [row for row in summary.networks if row.precision == "fp32"]
    return (
        _environment()
        .get_template("page.html")
        .render(
            project=project,
            scripts=scripts,
            script_hashes=[_hash(script) for script in scripts],
            summary=summary,
            choice=summary.recommendation,
            removed=summary.network(chosen.network).all_removed if chosen else [],
            batch=largest_batch(metrics),
            variants=list(metrics),
            place={variant: index for index, variant in enumerate(metrics)},
            color=color,
            precisions=list(dict.fromkeys(engine.precision for engine in summary.timed)),
            front=pareto_front(summary.timed),
            charts={name: for_page(spec, legend=name == "heat") for name, spec in charts.items()},
            diagrams=block_diagrams(summary, metrics),
            training=training_table(metrics),
            repair=repair_table(fp32),
            depth=depth_table(summary, fp32),
            chains=chains(metrics),
            marks=MARKS,
            data=data_facts(data),
            machine=machine_facts(run) if run else {},
            protocol=facts(run.protocol) if run else {},
            not_measured=not_measured(metrics),
        )
    )


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; bundling them takes seconds."""
    import vl_convert  # starts an engine that would not live on in a fork

    version = "-".join((vl_convert.get_vega_version(), VEGA_LITE))
    kept = CACHE / f"vega-{version}.js"
    if not kept.exists():
        with replace_file(kept) as temporary:
            bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
            temporary.write_text(bundle, encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bold"] = _bold
    return environment


def _bold(cell: str) -> Markup:
    """Return a cell of a Markdown table as HTML, of which only ``**1**`` is more than text."""
    level = re.fullmatch(r"\*\*(\d+)\*\*", cell)
    return Markup("<strong>{}</strong>").format(level[1]) if level else escape(cell)


def _hash(script: str) -> str:
    """Return what a content security policy names a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
