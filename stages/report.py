"""Write reports/summary.json, reports/summary.md and the plots, over all variants."""

from pipeline import plots
from pipeline.artifacts import REPORTS, metrics_path, read_json, replace_file, write_json
from pipeline.params import load_params
from pipeline.report import summary_markdown, summary_rows
from stages import run_stage


def main() -> None:
    """Read the metrics of the variants that params.yaml lists and lay them side by side."""
    variants = list(load_params().variants)
    stages = ("train", "plan", "collapse", "build", "benchmark")
    metrics = {
        stage: {variant: read_json(metrics_path(stage, variant)) for variant in variants}
        for stage in stages
    }
    rows = [
        row
        for variant in variants
        for row in summary_rows(variant, *(metrics[stage][variant] for stage in stages[1:]))
    ]
    write_json(REPORTS / "summary.json", rows)
    with replace_file(REPORTS / "summary.md") as temporary:
        text = summary_markdown(rows, metrics["benchmark"], metrics["build"])
        temporary.write_text(text, encoding="utf-8")

    batch = max(metrics["benchmark"][variants[0]]["protocol"]["batch_sizes"])
    plots.accuracy_against_latency(rows, batch, REPORTS / "accuracy_latency.png")
    plots.accuracy_against_removed(rows, REPORTS / "accuracy_removed.png")
    histories = {variant: metrics["train"][variant]["epochs"] for variant in variants}
    plots.distance_over_training(histories, REPORTS / "distance_training.png")
    print(f"{len(rows)} rows in {REPORTS / 'summary.md'}")


if __name__ == "__main__":
    run_stage(main)
