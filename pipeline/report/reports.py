"""Lay all variants side by side and write reports/: summary.json, summary.md, the page, charts."""

from collections.abc import Mapping

from pipeline.core.artifacts import REPORTS, replace_file
from pipeline.core.params import Choose
from pipeline.core.records import write_record
from pipeline.data.records import Prepared
from pipeline.report.charts import depth, distances, latency, savings
from pipeline.report.charts.style import Spec, write_picture
from pipeline.report.failures import Failure
from pipeline.report.front import named
from pipeline.report.markdown import summary_markdown
from pipeline.report.metrics import Metrics, largest_batch
from pipeline.report.page.page import report_page
from pipeline.report.recommendation import choose
from pipeline.report.records import SUMMARY, Summary
from pipeline.report.rows import engine_rows, network_rows


def summarise(metrics: Metrics, failures: Mapping[str, Failure], limits: Choose) -> Summary:
    """Return the rows of all variants, and what is recommended of them.

    Args:
        metrics: of the variants that ran through.
        failures: of those that did not.
        limits: the section `choose` of params.yaml.
    """
    networks, engines = [], []
    for variant, own in metrics.items():
        rows = network_rows(variant, own)
        networks += rows
        engines += engine_rows(own, rows)
    unsettled = next((own.benchmark.unsettled for own in metrics.values()), [])
    return Summary(choose(networks, engines, limits), dict(failures), networks, engines, unsettled)


def write_reports(project: str, summary: Summary, metrics: Metrics, data: Prepared) -> None:
    """Write every file under reports/ but those of `bench`.

    Args:
        project: the name in params.yaml.
        summary: of these variants.
        metrics: of the same.
        data: what `prepare` wrote of the images.
    """
    write_record(SUMMARY, summary)
    found = charts(summary, metrics)
    texts = {
        "summary.md": summary_markdown(summary, metrics),
        "index.html": report_page(project, summary, metrics, found, data),
    }
    for name, text in texts.items():
        with replace_file(REPORTS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    of_named = {variant: metrics[variant] for variant in named(summary) or metrics}
    for name, chart, spec in (
        ("accuracy_latency", latency, found["engines"]),
        ("accuracy_removed", depth, found["depths"]),
        ("distance_training", distances, distances.distances(of_named)),
    ):
        write_picture(spec, REPORTS / f"{name}.png", chart.TITLE, chart.SUBTITLE)


def charts(summary: Summary, metrics: Metrics) -> dict[str, Spec]:
    """Return the specification of each chart by the id of its place on the page."""
    found = {
        "engines": latency.accuracy_against_latency(summary, largest_batch(metrics)),
        "depths": depth.accuracy_against_removed(summary),
        "heat": distances.distances(metrics),
        "bars": savings.savings(summary, metrics),
    }
    return {name: spec for name, spec in found.items() if spec}
