"""Collapse one variant's ONNX graph to every level of its plan, each proven equal to PyTorch.

The graph is that of `export`, or where a level is shipped with repaired weights, one with these,
which is exported here (docs/decisions/0012-healed-levels-are-exported.md). Writes
artifacts/collapse/<variant>/level_<n>.onnx and metrics/collapse/<variant>.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.cost import count_macs, count_parameters
from models.hashing import file_sha256
from models.replacements import maps_in
from models.surgery import put_back
from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.channel_maps import as_maps
from pipeline.collapse import CollapseReport, collapse_onnx
from pipeline.data import Dataset, Split, batches, subset
from pipeline.engines import onnxruntime
from pipeline.evaluate import accuracy_pct
from pipeline.export import export_onnx
from pipeline.levels import shipped_network
from pipeline.method import select_units
from pipeline.networks import load_trained
from pipeline.params import Collapse, load_params
from pipeline.parity import compare, require
from pipeline.repairs import is_repaired
from stages import run_variant_stage

BATCH = 256


def main(variant: str) -> None:
    """Write, compare and evaluate the graph of every level."""
    params = load_params()
    method = params.variant(variant).method
    model, spec, data = load_trained(variant)
    example = spec.example()
    levels = []
    with replace_dir(artifacts_dir("collapse", variant)) as folder:
        for healed in read_json(metrics_path("heal", variant))["levels"]:
            removed, target = healed["removed"], folder / f"level_{healed['level']}.onnx"
            shallow = shipped_network(model, variant, healed)
            source, made_by = artifacts_dir("export", variant) / "model.onnx", "collapse"
            if is_repaired(healed):
                # The blocks come back for the export, so that this graph, too, is collapsed.
                whole = put_back(shallow, model, removed)
                units = select_units(method, model, example).units
                source = export_onnx(whole, example, folder / "whole.onnx", blocks=units)
                made_by = "export"
            report = collapse_onnx(source, target, removed, as_maps(maps_in(shallow, removed)))
            measured = measure_level(target, shallow, report, data=data, params=params.collapse)
            levels.append({"level": healed["level"], "made_by": made_by, **measured})
            print(
                f"{variant}: level {healed['level']}  {measured['macs'] / 1e6:.2f} MMACs  "
                f"test {measured['test_accuracy_pct']:.2f} %  "
                f"equal to PyTorch within {measured['parity']['max_rel']:.1e}",
                flush=True,
            )
        (folder / "whole.onnx").unlink(missing_ok=True)
    metrics = {"variant": variant, **params.collapse.model_dump(), "levels": levels}
    write_json(metrics_path("collapse", variant), metrics)


def measure_level(
    target: Path, shallow: nn.Module, report: CollapseReport, *, data: Dataset, params: Collapse
) -> dict[str, Any]:
    """Compare a collapsed graph with the PyTorch network it must be; measure it."""
    run = onnxruntime.runner(target)
    sample = subset(data.validation, params.samples, seed=0)
    images, _ = next(batches(sample, params.samples, mean=data.mean, std=data.std, device="cpu"))
    with torch.inference_mode():
        expected = torch.cat([shallow(part) for part in torch.split(images, BATCH)]).numpy()
    parity = compare(expected, run(images.numpy()))
    require(parity, params.tolerance, f"{target.name} without {', '.join(report.removed)}")

    def accuracy(split: Split) -> float:
        def forward(x: Tensor) -> Tensor:
            return torch.from_numpy(run(x.numpy()))

        loader = batches(split, BATCH, mean=data.mean, std=data.std, device="cpu")
        return accuracy_pct(forward, loader)

    return {
        "removed": report.removed,
        "file": target.name,
        "sha256": file_sha256(target),
        "params": count_parameters(shallow),
        # A map that was merged into a convolution costs nothing in the graph.
        "macs": report.after.macs or count_macs(shallow, images),
        "nodes": report.after.nodes,
        "onnx_bytes": report.after.size_bytes,
        "before": dataclasses.asdict(report.before),
        "after": dataclasses.asdict(report.after),
        "parity": dataclasses.asdict(parity),
        "val_accuracy_pct": accuracy(data.validation),
        "test_accuracy_pct": accuracy(data.test),
    }


if __name__ == "__main__":
    run_variant_stage(main)
