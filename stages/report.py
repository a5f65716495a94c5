"""Write reports/index.html, summary.json, summary.md and the plots, over all variants."""

from pipeline import plots
from pipeline.artifacts import REPORTS, metrics_path, read_json, replace_file, write_json
from pipeline.choice import choose
from pipeline.params import load_params
from pipeline.report import STAGES, summary_rows
from pipeline.report_page import report_page
from pipeline.summary_tables import summary_markdown
from stages import run_stage

READ = ("train", "score", "plan", *STAGES)  # metrics of every variant


def main() -> None:
    """Read the metrics of the variants that params.yaml lists and lay them side by side."""
    params = load_params()
    variants = list(params.variants)
    metrics = {
        variant: {stage: read_json(metrics_path(stage, variant)) for stage in READ}
        for variant in variants
    }
    rows = [row for variant in variants for row in summary_rows(variant, metrics[variant])]
    choice = choose(rows, params.choose)
    page = report_page(params.name, rows, choice, metrics, read_json(metrics_path("prepare")), {})
    write_json(REPORTS / "summary.json", {"recommendation": choice.to_json(), "rows": rows})
    with replace_file(REPORTS / "summary.md") as temporary:
        temporary.write_text(summary_markdown(rows, metrics), encoding="utf-8")
    with replace_file(REPORTS / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")

    batch = max(metrics[variants[0]]["benchmark"]["protocol"]["batch_sizes"])
    plots.accuracy_against_latency(rows, batch, REPORTS / "accuracy_latency.png")
    plots.accuracy_against_removed(rows, REPORTS / "accuracy_removed.png")
    histories = {variant: metrics[variant]["train"]["epochs"] for variant in plots.named(rows)}
    plots.distance_over_training(histories, REPORTS / "distance_training.png")
    print(f"{len(rows)} rows in {REPORTS / 'index.html'}; recommended: {choice.reason}")


if __name__ == "__main__":
    run_stage(main)
