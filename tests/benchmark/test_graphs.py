"""Graphs timed against each other, with ONNX Runtime on this machine."""

from pathlib import Path

import pytest
from tiny_onnx import some_images, write_network

from models.errors import ArtifactError, ParamsError
from pipeline.benchmark.timing.graphs import graph_latencies_ms
from pipeline.core.params import Benchmark, WarmUp

TIMING = Benchmark(
    batch_sizes=[1], warmup=WarmUp(window=2, max_calls=6), rounds=5, repeats=3, threads=1
)


def test_a_graph_of_more_work_takes_longer_and_so_does_a_larger_batch(tmp_path: Path) -> None:
    graphs = [tmp_path / f"{depth}.onnx" for depth in (2, 24)]
    for graph, depth in zip(graphs, (2, 24), strict=True):
        write_network(graph, depth=depth, width=16)
    shallow_ms, deep_ms = graph_latencies_ms(graphs, some_images(4), 4, TIMING)
    assert 0 < shallow_ms < deep_ms
    [larger_ms] = graph_latencies_ms(graphs[1:], some_images(4), 64, TIMING)  # repeats the images
    assert larger_ms > deep_ms


def test_what_cannot_be_timed_is_named(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx")
    with pytest.raises(ArtifactError, match=r"none\.onnx is missing"):
        graph_latencies_ms([tmp_path / "none.onnx"], some_images(1), 1, TIMING)
    elsewhere = TIMING.model_copy(update={"cores": [100_000]})
    with pytest.raises(ParamsError, match="may use"):
        graph_latencies_ms([tmp_path / "tiny.onnx"], some_images(1), 1, elsewhere)
