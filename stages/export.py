"""Export one variant to ONNX and compare the file with PyTorch.

Writes artifacts/export/<variant>/model.onnx and metrics/export/<variant>.json, which says of each
block why it cannot be removed from the graph (nothing where it can).
"""

import torch

from models.unit_selection import select_units
from pipeline.core.artifacts import artifacts_dir, metrics_path, replace_dir
from pipeline.core.params import load_params
from pipeline.core.records import write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.export.boundaries import load_onnx, read_boundaries
from pipeline.export.exporter import export_onnx
from pipeline.export.graph_size import graph_size
from pipeline.export.parity import compare, require
from pipeline.export.records import ExportMetrics
from pipeline.export.session import runner
from stages.inputs import load_trained

SAMPLES = 64  # validation images on which PyTorch and ONNX are compared


def main(variant: str) -> None:
    """Export the trained network and compare the file with it on real images."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, data = load_trained(variant)
    images = data.normalised(data.validation.sample(SAMPLES))
    units = select_units(model, spec.example(), method.mode, method.unit).units
    target = artifacts_dir("export", variant)
    with replace_dir(target) as folder:
        path = export_onnx(model, spec.example(), folder / "model.onnx", blocks=units)
        with torch.inference_mode():
            expected = model(images).numpy()
        parity = compare(expected, runner(path)(images.numpy()))
        require(parity, params.export.tolerance, f"{variant}: PyTorch and its ONNX export")
        exported = load_onnx(path)
    metrics = ExportMetrics(
        variant=variant,
        file=path.name,
        opset=exported.opset_import[0].version,
        onnx_bytes=graph_size(exported).size_bytes,
        blocks={name: boundary.reason for name, boundary in read_boundaries(exported).items()},
        tolerance=params.export.tolerance,
        parity=parity,
    )
    write_record(metrics_path("export", variant), metrics)
    print(
        f"{variant}: {target / path.name}, opset {metrics.opset}, "
        f"equal to PyTorch within {parity.max_rel:.1e}"
    )


if __name__ == "__main__":
    run_variant_stage(main)
