"""Write reports/index.html, summary.json, summary.md and the plots, over all variants."""

from dataclasses import asdict

from pipeline import plots
from pipeline.artifacts import REPORTS, metrics_path, read_json, replace_file, write_json
from pipeline.choice import choose
from pipeline.failures import require_some, still_failed, without_numbers
from pipeline.params import load_params
from pipeline.report import STAGES, SUMMARY, summary_rows
from pipeline.report_page import report_page
from pipeline.summary_tables import failures_markdown, summary_markdown
from stages import run_stage

READ = ("train", "score", "plan", *STAGES)  # metrics of every variant


def main() -> None:
    """Lay the variants of params.yaml side by side, but for those on record as failed."""
    params = load_params()
    failures = still_failed(params.variants)
    variants = [name for name in params.variants if name not in without_numbers(failures)]
    require_some(variants, failures)
    metrics = {
        variant: {stage: read_json(metrics_path(stage, variant)) for stage in READ}
        for variant in variants
    }
    rows = [row for variant in variants for row in summary_rows(variant, metrics[variant])]
    choice = choose(rows, params.choose)
    failed = {name: asdict(failure) for name, failure in failures.items()}
    prepared = read_json(metrics_path("prepare"))
    page = report_page(params.name, rows, choice, metrics, prepared, failed)
    summary = {"recommendation": choice.to_json(), "failures": failed, "rows": rows}
    write_json(SUMMARY, summary)
    with replace_file(REPORTS / "summary.md") as temporary:
        text = failures_markdown(failed) + summary_markdown(rows, metrics)
        temporary.write_text(text, encoding="utf-8")
    with replace_file(REPORTS / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")

    batch = max(metrics[variants[0]]["benchmark"]["protocol"]["batch_sizes"])
    plots.accuracy_against_latency(rows, batch, REPORTS / "accuracy_latency.png")
    plots.accuracy_against_removed(rows, REPORTS / "accuracy_removed.png")
    shown = plots.named(rows) or variants[: plots.MANY]  # no row where no graph passed the ladder
    histories = {variant: metrics[variant]["train"]["epochs"] for variant in shown}
    plots.distance_over_training(histories, REPORTS / "distance_training.png")
    for name, failure in failures.items():
        print(f"{name} failed at {failure.stage}: {failure.reason}")
    print(f"{len(rows)} rows in {REPORTS / 'index.html'}; recommended: {choice.reason}")


if __name__ == "__main__":
    run_stage(main)
