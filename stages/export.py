"""Export one variant to ONNX and compare the file with PyTorch.

Writes artifacts/export/<variant>/model.onnx and metrics/export/<variant>.json, which says of each
block why it cannot be cut out of the graph (nothing where it can).
"""

import dataclasses

import torch

from pipeline.artifacts import artifacts_dir, metrics_path, replace_dir, write_json
from pipeline.data import batches, subset
from pipeline.engines import onnxruntime
from pipeline.export import export_onnx
from pipeline.method import select_units
from pipeline.networks import load_trained
from pipeline.onnx_graph import graph_size, load_onnx, read_boundaries
from pipeline.params import load_params
from pipeline.parity import compare, require
from stages import run_variant_stage

SAMPLES = 64  # validation images on which PyTorch and ONNX are compared


def main(variant: str) -> None:
    """Export the trained network and compare the file with it on real images."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, data = load_trained(variant)
    sample = subset(data.validation, SAMPLES, seed=0)
    images, _ = next(batches(sample, SAMPLES, mean=data.mean, std=data.std, device="cpu"))

    target = artifacts_dir("export", variant)
    with replace_dir(target) as folder:
        units = select_units(method, model, spec.example()).units
        path = export_onnx(model, spec.example(), folder / "model.onnx", blocks=units)
        with torch.inference_mode():
            expected = model(images).numpy()
        parity = compare(expected, onnxruntime.runner(path)(images.numpy()))
        require(parity, params.export.tolerance, f"{variant}: PyTorch and its ONNX export")
        exported = load_onnx(path)
    metrics = {
        "variant": variant,
        "file": "model.onnx",
        "opset": exported.opset_import[0].version,
        "onnx_bytes": graph_size(exported).size_bytes,
        "blocks": {name: boundary.reason for name, boundary in read_boundaries(exported).items()},
        "tolerance": params.export.tolerance,
        "parity": dataclasses.asdict(parity),
    }
    write_json(metrics_path("export", variant), metrics)
    print(
        f"{variant}: {target / 'model.onnx'}, opset {metrics['opset']}, "
        f"equal to PyTorch within {parity.max_rel:.1e}"
    )


if __name__ == "__main__":
    run_variant_stage(main)
