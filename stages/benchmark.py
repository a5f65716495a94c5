"""Time the engines of all variants against each other, in one run: metrics/benchmark.json."""

from pipeline.core.artifacts import artifacts_dir, metrics_path, read_json
from pipeline.core.params import load_params
from pipeline.core.records import write_record
from pipeline.core.stage_script import run_stage
from pipeline.report.failures import with_numbers


def main() -> None:
    """Time every engine that passed the parity chain and can run here; list which did not."""
    # Processes that zeus starts import this module again, so what is slow is imported here.
    from pipeline.benchmark.measurement import benchmark
    from pipeline.benchmark.proven_engines import proven_engines
    from pipeline.benchmark.table import as_markdown
    from pipeline.benchmark.timing.protocol import machine
    from pipeline.data.dataset import validation_sample

    params = load_params()
    variants, _ = with_numbers(params.variants)
    metrics = benchmark(
        proven_engines(variants, params.build),
        validation_sample(artifacts_dir("prepare"), max(params.benchmark.batch_sizes)),
        params.benchmark,
        machine(read_json(artifacts_dir("probe") / "target.json")),
    )
    write_record(metrics_path("benchmark"), metrics)
    print(as_markdown(metrics))


if __name__ == "__main__":
    run_stage(main)
