"""How much faster is a network without the sets of blocks that the strategies took out?

    python -m benchmarks.evidence.set_latency resnet18
    python -m benchmarks.evidence.set_latency efficientnet_lite0
    python -m benchmarks.evidence.set_latency resnet18_full

Exports the task's network, collapses it once for each set that the results of the strategies (where
there are none: of the penalty) name, with linear maps in the place of the blocks where the way has
them, and times all graphs in the same rounds of one run, with ONNX Runtime on this machine. Adds to
benchmarks/results/latency.jsonl. Nothing else should run meanwhile.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.evidence.trials import TASKS, Results, images_of
from benchmarks.page.results import Shape, shape_at
from benchmarks.page.tables import measured
from models.replacement.fitting import fit
from models.units import block_units
from pipeline.benchmark.timing.graphs import graph_latencies_ms
from pipeline.collapse.channel_maps import as_maps
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.params import load_params
from pipeline.export.exporter import export_onnx
from pipeline.train.initial_network import create_network

BATCH_SIZE = 32


def main() -> None:
    """Time what the strategies made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task = parser.parse_args().task
    wanted = shapes(task)
    for shape, (ms, speed_up) in zip(wanted, times(task, wanted), strict=True):
        value: dict[str, Any] = {
            "task": task,
            "seed": 0,
            "removed": list(shape.removed),
            "replacement": shape.replacement,
            "p50_ms": ms,
            "speed_up": speed_up,
            "batch_size": BATCH_SIZE,
        }
        Results("latency").put(f"{task} {shape}", value)


def shapes(task: str) -> list[Shape]:
    """Return the distinct networks that were made, the whole one first."""
    experiment = "strategies" if measured("strategies", task) else "penalty"
    made = {
        shape_at(row, int(depth)) for row in measured(experiment, task) for depth in row["levels"]
    }
    return [Shape(), *sorted(made - {Shape()})]


def times(task: str, wanted: Sequence[Shape]) -> list[tuple[float, float]]:
    """Return each network's median latency in ms and how many times as fast as the first it is."""
    torch.manual_seed(0)
    model, spec, images = create_network(TASKS[task].model, images_of(task))
    batch, _ = next(images.batches(images.test, BATCH_SIZE))
    units = block_units(model.eval(), spec.example())
    with TemporaryDirectory() as folder:
        source = export_onnx(model, spec.example(), Path(folder) / "whole.onnx", blocks=units)
        graphs = [Path(folder) / f"{number}.onnx" for number in range(len(wanted))]
        for graph, shape in zip(graphs, wanted, strict=True):
            mapped = shape.removed if shape.replacement != "identity" else ()
            maps = as_maps(fit(model, mapped, shape.replacement, [batch]) if mapped else {})
            collapse_onnx(source, graph, shape.removed, maps)
        settings = load_params().benchmark
        found = graph_latencies_ms(graphs, batch.numpy(), BATCH_SIZE, settings)
    return [(ms, found[0] / ms) for ms in found]


if __name__ == "__main__":
    main()
