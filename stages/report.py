"""Write reports/index.html, summary.json, summary.md and the charts, over all variants."""

from pipeline.core.artifacts import REPORTS, metrics_path
from pipeline.core.params import load_params
from pipeline.core.records import read_record
from pipeline.core.stage_script import run_stage
from pipeline.data.records import Prepared
from pipeline.report.failures import with_numbers
from pipeline.report.metrics import read_metrics
from pipeline.report.reports import summarise, write_reports


def main() -> None:
    """Lay the variants of params.yaml side by side, but for those on record as failed."""
    params = load_params()
    variants, failures = with_numbers(params.variants)
    metrics = read_metrics(variants)
    summary = summarise(metrics, failures, params.choose)
    write_reports(params.name, summary, metrics, read_record(metrics_path("prepare"), Prepared))
    for name, failure in failures.items():
        print(f"{name} failed at {failure.stage}: {failure.reason}")
    reason = summary.recommendation.reason
    print(f"{len(summary.networks)} rows in {REPORTS / 'index.html'}; recommended: {reason}")


if __name__ == "__main__":
    run_stage(main)
