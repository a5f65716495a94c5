"""How much faster is a network without the sets of blocks that the strategies took out?

    python -m benchmarks.set_latency resnet18
    python -m benchmarks.set_latency efficientnet_lite0
    python -m benchmarks.set_latency resnet18_full

Exports the task's network, collapses it once for each set that the results of the strategies (where
there are none: of the penalty) name, and times all graphs in the same rounds of one run, with
ONNX Runtime on this machine. Adds to benchmarks/results/latency.jsonl. Nothing else should run
meanwhile.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.results import removed_at
from benchmarks.tables import measured
from benchmarks.trials import TASKS, Results, images_of
from models.units import block_units
from pipeline.collapse import collapse_onnx
from pipeline.data import batches
from pipeline.export import export_onnx
from pipeline.graph_latency import graph_latencies_ms
from pipeline.networks import create_network
from pipeline.params import load_params

BATCH_SIZE = 32


def main() -> None:
    """Time what the strategies made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task = parser.parse_args().task
    sets = removed_sets(task)
    for removed, (ms, speed_up) in zip(sets, times(task, sets), strict=True):
        value: dict[str, Any] = {
            "task": task,
            "seed": 0,
            "removed": removed,
            "p50_ms": ms,
            "speed_up": speed_up,
            "batch_size": BATCH_SIZE,
        }
        Results("latency").put(f"{task} {'+'.join(removed) or 'whole'}", value)


def removed_sets(task: str) -> list[list[str]]:
    """Return the distinct sets that were taken out, the empty one first."""
    experiment = "strategies" if measured("strategies", task) else "penalty"
    sets = {
        tuple(sorted(removed_at(row, int(depth))))
        for row in measured(experiment, task)
        for depth in row["levels"]
    } - {()}
    return [[], *(list(names) for names in sorted(sets))]


def times(task: str, sets: list[list[str]]) -> list[tuple[float, float]]:
    """Return each set's median latency in ms and how many times as fast as the whole it is."""
    torch.manual_seed(0)
    model, spec, images = create_network(TASKS[task].model, images_of(task))
    options: Any = {"mean": images.mean, "std": images.std, "device": "cpu"}
    batch, _ = next(batches(images.test, BATCH_SIZE, **options))
    units = block_units(model.eval(), spec.example())
    with TemporaryDirectory() as folder:
        source = export_onnx(model, spec.example(), Path(folder) / "whole.onnx", blocks=units)
        graphs = [Path(folder) / f"{number}.onnx" for number in range(len(sets))]
        for graph, removed in zip(graphs, sets, strict=True):
            collapse_onnx(source, graph, removed)
        settings = load_params().benchmark
        found = graph_latencies_ms(graphs, batch.numpy(), BATCH_SIZE, settings)
    return [(ms, found[0] / ms) for ms in found]


if __name__ == "__main__":
    main()
