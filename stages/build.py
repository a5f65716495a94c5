"""Build one variant's engines: artifacts/build/<variant>/ and metrics/build/<variant>.json."""

from pipeline.core.artifacts import artifacts_dir, metrics_path, replace_dir
from pipeline.core.params import load_params
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.engines.backends.build import build
from pipeline.engines.records import PrecisionMetrics


def main(variant: str) -> None:
    """Build every graph on every backend that is here; report which engines are not, and why."""
    params = load_params()
    params.variant(variant)
    typed = read_record(metrics_path("precision", variant), PrecisionMetrics)
    with replace_dir(artifacts_dir("build", variant)) as folder:
        built = build(typed, artifacts_dir("precision", variant), folder, params.build)
    write_record(metrics_path("build", variant), built)
    for backend, reason in built.not_available.items():
        print(f"{variant}: {backend} is not available: {reason}")
    for record in (*built.engines, *built.missing):
        print(f"{variant}: {record}")


if __name__ == "__main__":
    run_variant_stage(main)
