"""Collapse one variant's ONNX graph to every level of its plan, each proven equal to PyTorch.

Writes artifacts/collapse/<variant>/level_<n>.onnx and metrics/collapse/<variant>.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.cost import count_macs, count_parameters
from models.replacements import load
from models.surgery import bypass
from pipeline.artifacts import artifacts_dir, metrics_path, read_json, replace_dir, write_json
from pipeline.channel_maps import as_maps
from pipeline.collapse import CollapseReport, collapse_onnx
from pipeline.data import Dataset, Split, batches, subset
from pipeline.engines import onnxruntime
from pipeline.evaluate import accuracy_pct
from pipeline.networks import load_trained
from pipeline.params import Collapse, load_params
from pipeline.parity import compare, require
from stages import run_variant_stage

BATCH = 256


def main(variant: str) -> None:
    """Write, compare and evaluate the graph of every level."""
    params = load_params()
    params.variant(variant)
    model, _, data = load_trained(variant)
    source = artifacts_dir("export", variant) / "model.onnx"
    levels = []
    with replace_dir(artifacts_dir("collapse", variant)) as folder:
        for planned in read_json(metrics_path("plan", variant))["levels"]:
            target = folder / f"level_{planned['level']}.onnx"
            fitted = artifacts_dir("plan", variant) / f"level_{planned['level']}.safetensors"
            stand_ins = {} if planned["replacement"] == "identity" else load(fitted)
            shallow = bypass(model, planned["removed"], stand_ins)
            report = collapse_onnx(source, target, planned["removed"], as_maps(stand_ins))
            measured = measure_level(target, shallow, report, data=data, params=params.collapse)
            levels.append({"level": planned["level"], **measured})
            print(
                f"{variant}: level {planned['level']}  {measured['macs'] / 1e6:.2f} MMACs  "
                f"test {measured['test_accuracy_pct']:.2f} %  "
                f"equal to PyTorch within {measured['parity']['max_rel']:.1e}",
                flush=True,
            )
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
