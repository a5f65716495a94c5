"""Type one variant's graphs in every precision.

Writes artifacts/precision/<variant>/<precision>/level_<n>.onnx and
metrics/precision/<variant>.json.
"""

from typing import Any

from pipeline.artifacts import (
    artifacts_dir,
    metrics_path,
    read_json,
    replace_dir,
    require_unchanged,
    write_json,
)
from pipeline.data import batches, subset
from pipeline.networks import load_trained
from pipeline.params import load_params
from pipeline.precision import open_level, typed_graphs
from pipeline.progress import progress
from stages import run_variant_stage


def main(variant: str) -> None:
    """Write every level's graphs, calibrated on training images; tell what cannot be had."""
    params = load_params()
    params.variant(variant)
    options = params.precision
    collapsed = read_json(metrics_path("collapse", variant))["levels"]
    _, _, data = load_trained(variant)
    sample = subset(data.train, options.samples, options.seed)
    [(images, _)] = batches(sample, len(sample), mean=data.mean, std=data.std, device="cpu")
    levels = []
    with replace_dir(artifacts_dir("precision", variant)) as folder:
        for level in progress(collapsed, "precision", unit="level"):
            source = artifacts_dir("collapse", variant) / level["file"]
            require_unchanged(source, level["sha256"])
            made = typed_graphs(open_level(source, images.numpy()), folder, options.precisions)
            levels.append({"level": level["level"], "removed": level["removed"], **made})
            _print(variant, levels[-1])
    calibration = {
        "split": "train",
        "images": len(sample),
        "seed": options.seed,
        "ranges": "minmax",
    }
    metrics = {"variant": variant, "calibration": calibration, "levels": levels}
    write_json(metrics_path("precision", variant), metrics)


def _print(variant: str, level: dict[str, Any]) -> None:
    for precision, graph in level["graphs"].items():
        kept = len(graph["kept_fp32"])
        stays = f", {kept} operators stay in float32" if kept else ""
        told = f"{graph['bytes']:,} bytes{stays}"
        print(f"{variant}: level {level['level']}  {precision}: {told}", flush=True)
    for precision, reason in level["failed"].items():
        print(f"{variant}: level {level['level']}  {precision}: failed, {reason}", flush=True)


if __name__ == "__main__":
    run_variant_stage(main)
