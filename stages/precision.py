"""Type one variant's graphs in every precision.

Writes artifacts/precision/<variant>/<precision>/level_<n>.onnx and
metrics/precision/<variant>.json.
"""

from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import artifacts_dir, metrics_path, replace_dir, require_unchanged
from pipeline.core.params import load_params
from pipeline.core.progress import progress
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.engines.precision.typed_graphs import open_level, typed_graphs
from pipeline.engines.records import MissingGraph, PrecisionMetrics, TypedGraph
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Write every level's graphs, calibrated on training images; report what cannot be made."""
    params = load_params()
    params.variant(variant)
    options = params.precision
    collapsed = read_record(metrics_path("collapse", variant), CollapseMetrics).levels
    _, _, data = load_trained(variant)
    images = data.normalised(data.train.sample(options.samples, options.seed)).numpy()
    calibration = {
        "split": "train",
        "images": len(images),
        "seed": options.seed,
        "ranges": "minmax",
    }
    graphs: list[TypedGraph] = []
    missing: list[MissingGraph] = []
    with replace_dir(artifacts_dir("precision", variant)) as folder:
        for level in progress(collapsed, "precision", unit="level"):
            source = artifacts_dir("collapse", variant) / level.file
            require_unchanged(source, level.sha256)
            opened = open_level(level.level, source, images)
            made, failed = typed_graphs(opened, folder, options.precisions)
            for record in (*made, *failed):
                print(f"{variant}: {record}", flush=True)
            graphs += made
            missing += failed
    metrics = PrecisionMetrics(variant, calibration, graphs, missing)
    write_record(metrics_path("precision", variant), metrics)


if __name__ == "__main__":
    run_variant_stage(main)
