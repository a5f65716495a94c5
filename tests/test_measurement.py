"""Device times, layers and pinning through a whole measurement, on a device made of sleep."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from proven_engines import verified, write_engines
from tiny_onnx import some_images

from models.hashing import file_sha256
from pipeline.benchmark import benchmark
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Bound, LayerTime
from pipeline.measurement import numbers
from pipeline.onnx_graph import Boundary, record_boundaries
from pipeline.params import Benchmark, WarmUp, load_params

ROOT = Path(__file__).parent.parent
HOST_MS, DEVICE_MS = 4.0, 1.0


def open_on_the_device(path: Path, threads: int):
    """Open an engine whose host time is a sleep and whose device time is what it says."""
    cores = os.sched_getaffinity(0)

    def run():
        assert os.sched_getaffinity(0) == cores, "opened on other cores than run on"
        time.sleep(HOST_MS / 1e3)
        return np.zeros((1, 5), np.float32)

    def layers():
        return [LayerTime("conv0 + relu0", 0.25), LayerTime("conv1 + relu1 + pool", 0.5)]

    return lambda images: Bound(run, lambda: DEVICE_MS * len(images), "CUDA graph", layers)


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    device = replace(
        BACKENDS["tensorrt_rtx"], runnable=lambda options: None, load=open_on_the_device
    )
    monkeypatch.setitem(BACKENDS, "tensorrt_rtx", device)
    built = write_engines(tmp_path, depths=(2, 1))
    proven = verified(built, tmp_path)
    for level in proven["levels"]:
        for rung in level["rungs"]:
            if rung["backend"] == "tensorrt_rtx":
                accuracies = {"val_accuracy_pct": 90.0, "test_accuracy_pct": 89.0}
                plan = tmp_path / f"fp32/tensorrt_rtx/level_{level['level']}.engine"
                rung |= {"status": "passed", "sha256": file_sha256(plan), **accuracies}
    how = Benchmark(
        batch_sizes=[1, 2], warmup=WarmUp(window=2, max_calls=6), rounds=3, repeats=2, cores=[0]
    )
    params = load_params(ROOT / "params.yaml").model_copy(update={"benchmark": how})
    graph = write_graph(tmp_path / "graph.onnx")
    return benchmark(
        "dense",
        built,
        proven,
        tmp_path,
        graph=lambda one: graph,
        images=some_images(2),
        params=params,
    )


def write_graph(path: Path) -> Path:
    """Write a stem, a block and a head that hold the layers' nodes."""
    make = onnx.helper.make_node
    nodes = [
        make("Neg", ["images"], ["a"], "conv0"),
        make("Relu", ["a"], ["begin"], "relu0"),
        make("Neg", ["begin"], ["b"], "conv1"),
        make("Relu", ["b"], ["end"], "relu1"),
        make("Relu", ["end"], ["logits"], "pool"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])
        for name in ("images", "logits")
    ]
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    record_boundaries(model, [Boundary("layer1.0", ["begin"], ["end"], "")])
    onnx.save(model, path)
    return path


def test_device_and_host_times_are_kept_apart(metrics):
    for level in metrics["levels"]:
        for size, times in level["latency_ms"]["fp32"]["tensorrt_rtx"].items():
            assert times["p50"] >= HOST_MS
            device = times["device"]
            assert device["how"] == "CUDA graph"
            assert device["p50"] == device["p99"] == DEVICE_MS * int(size)
        assert "device" not in level["latency_ms"]["fp32"]["onnxruntime"]["1"]


def test_layers_lead_back_to_the_blocks(metrics):
    profile = metrics["levels"][0]["profile_ms"]["fp32"]["tensorrt_rtx"]
    assert profile == {
        "blocks": {},
        "outside_blocks": 0.25,
        "fused_across_blocks": {"layer1.0 + outside": 0.5},
        "not_attributed": 0.0,
    }
    assert set(metrics["levels"][0]["profile_ms"]["fp32"]) == {"tensorrt_rtx"}


def test_the_cores_asked_for_are_among_the_facts(metrics):
    assert (metrics["protocol"]["cores"], metrics["protocol"]["pinned"]) == ([0], True)
    assert metrics["protocol"]["threads"] == 1
    assert len(os.sched_getaffinity(0)) > 0


def test_memory_that_cannot_be_measured_costs_nothing_else(metrics):
    """The process that measures it has no such device."""
    assert set(metrics["no_memory"]) == {"tensorrt_rtx"}
    for level in metrics["levels"]:
        assert set(level["memory"]["fp32"]) == {"onnxruntime"}


@given(arrays(np.float64, (4, 3), elements=st.floats(0.001, 1e5)))
def test_numbers_are_ordered_after_rounding(durations):
    found = numbers(durations)
    low, high = found["p50_ci"]
    assert low <= found["p50"] <= high
    assert found["p50"] <= found["p90"] <= found["p99"]
