"""Memory of engines on the real thing: weights are seen, activations grow, errors are told."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import write_network

from pipeline.contenders import Contender
from pipeline.engines.machine import cuda_devices
from pipeline.footprint import footprints

MB = 1e6
SHAPE = (1, 12, 12)


def contender(path, level=0):
    return Contender("dense", level, "fp32", "onnxruntime", path, 90.0, 89.5)


def write_heavy(path, megabytes):
    """Write a classifier with that many megabytes of weights and hardly an activation."""
    width = int(megabytes * MB / 4 / 144)
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w1", (144, width)), ("w2", (width, 5)))
    ]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("images", SHAPE), ("logits", (5,)))
    ]
    graph = helper.make_graph(nodes, "heavy", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    heavy, wide = contender(write_heavy(folder / "heavy.onnx", 60)), contender(folder / "wide.onnx")
    write_network(wide.engine, depth=2, width=64)
    found, missing = footprints([heavy, wide], SHAPE, [1, 16, 256], threads=1)
    assert missing == {}
    return found[heavy], found[wide]


def test_weights_are_what_an_engine_holds_after_loading(measured):
    heavy, wide = measured
    assert 60 * MB <= heavy["host"]["loaded_bytes"] <= 140 * MB  # it may keep a packed copy
    assert 0 < wide["host"]["loaded_bytes"] <= 20 * MB


def test_activations_grow_with_the_batch(measured):
    _, wide = measured
    activations = wide["host"]["activations_bytes"]
    one_layer = 256 * 64 * 12 * 12 * 4
    assert activations["1"] < activations["16"] < activations["256"]
    assert one_layer <= activations["256"] <= 8 * one_layer


def test_the_peak_is_at_least_what_is_kept(measured):
    for engine in measured:
        host = engine["host"]
        for size, peak in host["peak_bytes"].items():
            assert peak >= 0.95 * (host["loaded_bytes"] + host["activations_bytes"][size])


def test_without_a_device_there_is_no_device_memory(measured):
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    assert all(set(engine) == {"host"} for engine in measured)


def test_an_engine_that_cannot_be_opened_does_not_cost_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the helper finds Shoal from any folder
    (tmp_path / "broken.onnx").write_bytes(b"no engine")
    broken, whole = (contender(tmp_path / f"{name}.onnx") for name in ("broken", "whole"))
    write_network(whole.engine)
    found, missing = footprints([broken, whole], SHAPE, [1], threads=1)
    assert set(found) == {whole}
    assert "ONNX Runtime cannot open" in missing["onnxruntime"]
    assert "broken.onnx" in missing["onnxruntime"]
