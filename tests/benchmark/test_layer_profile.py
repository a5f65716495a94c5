"""Layers to blocks: names as TensorRT makes them, and ONNX Runtime's own profile."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.zoo import create
from pipeline.benchmark.layer_profile import OUTSIDE, node_to_block, nodes_named, shares
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.engines.backends.interface import LayerTime
from pipeline.export.boundaries import Boundary, record_boundaries
from pipeline.export.exporter import export_onnx

# A stem, two blocks, a head: nodes in the order of the graph.
BLOCKS = {
    OUTSIDE: "Conv_1 relu",
    "layer1.0": "Conv_2 relu_1 Conv_3 add_1 relu_2",
    "layer1.1": "Conv_4 relu_3 Conv_5 add_2 relu_4",
}
NODES = {f"node_{name}": block for block, names in BLOCKS.items() for name in names.split()}
NODES |= {"node_mean": OUTSIDE, "node_linear": OUTSIDE}


def test_a_profile_as_tensorrt_reports_it():
    layers = [
        LayerTime("Reformatting CopyNode for Input Tensor 0 to node_Conv_1 + node_relu", 0.25),
        LayerTime("node_Conv_1 + node_relu", 1.0),
        LayerTime("node_Conv_2 + node_relu_1", 2.0),
        LayerTime("node_Conv_3 + node_add_1 + node_relu_2", 4.0),
        LayerTime("node_Conv_4 + PWN(node_relu_3)", 8.0),
        LayerTime("node_Conv_5 + PWN(PWN(node_add_2), node_relu_4)", 16.0),
        LayerTime("node_mean", 32.0),
        LayerTime("node_linear", 64.0),
        LayerTime("(Unnamed Layer* 12) [Shuffle]", 128.0),
    ]
    found = shares(layers, NODES)
    assert found == {
        ("block", "layer1.0"): 6.0,
        ("block", "layer1.1"): 24.0,
        ("outside blocks", ""): 97.25,
        ("unknown", ""): 128.0,
    }


def test_what_was_fused_across_blocks_is_not_divided():
    layers = [
        LayerTime("node_add_1 + node_relu_2 + node_Conv_4", 1.0),
        LayerTime("{ForeignNode[node_relu_3...node_linear]}", 2.0),
        LayerTime("{ForeignNode[node_Conv_4...node_add_2]}", 4.0),
        LayerTime("node_Conv_2 || node_Conv_4", 8.0),
    ]
    found = shares(layers, NODES)
    assert found == {
        ("fused across blocks", "layer1.0 + layer1.1"): 9.0,
        ("fused across blocks", "layer1.1 + outside"): 2.0,
        ("block", "layer1.1"): 4.0,
    }


def test_metadata_counts_before_the_name():
    """Of its compiler's kernels TensorRT names the nodes in the metadata alone."""
    layers = [
        LayerTime("__myl_ConvAddRelu_myl0_3", 1.0, ("node_Conv_3", "node_add_1", "node_relu_2")),
        LayerTime("__myl_Move_myl0_4", 2.0),
        LayerTime("node_Conv_1", 4.0, ("node_Conv_4",)),
        LayerTime("node_mean", 8.0, ("a node of another graph",)),
    ]
    assert shares(layers, NODES) == {
        ("block", "layer1.0"): 1.0,
        ("block", "layer1.1"): 4.0,
        ("outside blocks", ""): 8.0,
        ("unknown", ""): 2.0,
    }


def test_a_name_that_only_begins_like_a_node_is_not_that_node():
    nodes = ["node_relu", "node_relu_1", "/layer1/relu/Relu"]
    assert nodes_named("node_relu_1 + node_relu_17", nodes) == nodes[1:2]
    assert nodes_named("/layer1/conv/Conv + /layer1/relu/Relu", nodes) == nodes[2:]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([*NODES, "unknown"]), max_size=4),
            st.floats(0, 1e3),
            st.booleans(),
        )
    )
)
def test_no_time_is_lost_or_counted_twice(drawn):
    layers = [
        LayerTime("kernel", ms, tuple(nodes)) if named else LayerTime(" + ".join(nodes), ms)
        for nodes, ms, named in drawn
    ]
    total = sum(shares(layers, NODES).values())
    assert total == pytest.approx(sum(layer.ms for layer in layers))


def test_constants_belong_to_the_block_that_needs_them_and_shapes_of_the_input_do_not():
    make = onnx.helper.make_node
    nodes = [
        make("Shape", ["images"], ["shape"], "shape_of_the_input"),
        make("Relu", ["images"], ["begin"], "stem"),
        make("Constant", [], ["weight"], "weight", value_float=2.0),
        make("Mul", ["begin", "weight"], ["scaled"], "multiply"),
        make("Reshape", ["scaled", "shape"], ["end"], "reshape"),
        make("Relu", ["end"], ["logits"], "head"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])
        for name in ("images", "logits")
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    record_boundaries(model, [Boundary("block", ["begin"], ["end"], "")])
    inside = {node for node, block in node_to_block(model).items() if block == "block"}
    assert inside == {"weight", "multiply", "reshape"}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    model = create("resnet18_cifar", num_classes=10, width=8).eval()
    path = tmp_path_factory.mktemp("profile") / "level_0.onnx"
    return export_onnx(model, torch.zeros(1, 3, 32, 32), path)


def profile(path: Path, level: str) -> list[LayerTime]:
    """Run once with ONNX Runtime's profiler, fusing nodes up to a level."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"images": np.ones((4, 3, 32, 32), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [
        LayerTime(event["name"].removesuffix("_kernel_time"), event["dur"] / 1e3)
        for event in events
        if event["name"].endswith("_kernel_time")
    ]


def test_every_node_of_a_block_is_found_in_a_real_graph(network: Path):
    model = onnx.load(network)
    kinds = {node.name: node.op_type for node in model.graph.node}
    by_block: dict[str, list[str]] = {}
    for node, block in node_to_block(model).items():
        by_block.setdefault(block, []).append(kinds[node])
    del by_block[OUTSIDE]
    assert set(by_block) == {"layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"}
    for operators in by_block.values():
        assert sorted(operators) == ["Add", "Conv", "Conv", "Relu", "Relu"]


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED"])
def test_a_real_profile_goes_to_the_blocks(network: Path, level: str):
    layers = profile(network, level)
    found = shares(layers, node_to_block(onnx.load(network)))
    names = ("layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1")
    assert set(found) == {("outside blocks", ""), *(("block", name) for name in names)}
    assert all(ms > 0 for ms in found.values())
    fused = {"ORT_DISABLE_ALL": False, "ORT_ENABLE_EXTENDED": True}[level]
    assert (len(layers) < len(onnx.load(network).graph.node)) is fused


def test_a_removed_block_has_no_share(network: Path, tmp_path: Path):
    collapse_onnx(network, tmp_path / "level_2.onnx", ["layer1.1", "layer4.1"])
    found = shares(
        profile(tmp_path / "level_2.onnx", "ORT_DISABLE_ALL"),
        node_to_block(onnx.load(tmp_path / "level_2.onnx")),
    )
    blocks = {block for kind, block in found if kind == "block"}
    assert blocks == {"layer1.0", "layer2.1", "layer3.1"}
