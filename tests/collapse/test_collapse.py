"""Export and collapse: every graph equal to the PyTorch network with the same blocks bypassed."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from models.blocks import find_blocks
from models.cost import count_macs
from models.errors import ArtifactError, BlockError
from models.surgery import bypass
from models.zoo import create
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.export.boundaries import Boundary, load_onnx, read_boundaries, record_boundaries
from pipeline.export.exporter import export_onnx
from pipeline.export.graph_size import graph_size
from pipeline.export.parity import compare
from pipeline.export.session import runner

SCOPES_KEY = "pkg.torch.onnx.name_scopes"  # where the exporter writes a node's module path


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The authors' ResNet-18 at full width, exported."""
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10).eval()
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return model, export_onnx(model, torch.zeros(1, 3, 32, 32), path)


def assert_same_network(path: Path, model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        expected = model(images).numpy()
    assert compare(expected, runner(path)(images.numpy())).max_rel <= 1e-4


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 64, {}),
        ("swin_tiny_patch4_window7_224", 56, {"depths": (2, 2), "num_heads": (3, 6)}),
        ("mobilenetv2_100", 64, {}),
        ("vit_small_patch16_224", 64, {"depth": 4}),
        ("efficientnet_b0", 64, {}),
        ("convnext_atto", 64, {"depths": (3, 2, 2, 2)}),
        ("mambaout_femto", 64, {"depths": (2, 2, 3, 2)}),
        ("eva02_tiny_patch14_224", 56, {"depth": 4}),  # positions shared by all blocks
        ("hiera_tiny_224", 224, {"stages": (1, 1, 2, 1)}),  # attention in five dimensions
        ("hrnet_w18_small", 32, {}),  # branches side by side
        ("xcit_nano_12_p8_224", 224, {"depth": 4}),
    ],
)
def test_two_blocks_of_any_architecture(
    name: str, size: int, options: dict, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sized = {"img_size": size} if name.rpartition("_")[2] == "224" else {}
    model = create(name, 10, **sized, **options).eval()
    images = torch.randn(3, 3, size, size)
    source = export_onnx(model, images[:1], tmp_path / "model.onnx")
    blocks = [b.name for b in find_blocks(model, images) if b.removable]
    remove = [blocks[0], blocks[len(blocks) // 2]]
    report = collapse_onnx(source, tmp_path / "shallow.onnx", remove)
    shallow = bypass(model, remove)
    assert_same_network(tmp_path / "shallow.onnx", shallow, images)
    assert report.before.macs == count_macs(model, images)
    assert report.after.macs == count_macs(shallow, images)
    assert report.after.nodes < report.before.nodes
    assert report.after.parameters < report.before.parameters


def test_what_only_a_removed_block_read_is_removed_with_it(tmp_path: Path) -> None:
    """GCViT's blocks share a query made from the images: a second tensor that enters each."""
    torch.manual_seed(0)
    model = create("gcvit_xxtiny", 10, img_size=64).eval()
    images = torch.randn(3, 3, 64, 64)
    source = export_onnx(model, images[:1], tmp_path / "model.onnx")
    for stage, others_read_it in (("stages.2", True), ("stages.3", False)):
        remove = [f"{stage}.blocks.{i}" for i in range(2)]
        report = collapse_onnx(source, tmp_path / "shallow.onnx", remove)
        shallow = bypass(model, remove)
        assert_same_network(tmp_path / "shallow.onnx", shallow, images)
        by_pytorch = count_macs(shallow, images)  # which still computes the query
        assert (report.after.macs == by_pytorch) is others_read_it
        assert report.after.macs <= by_pytorch


GOLDEN_MMACS = {  # METHOD §1: the authors' CIFAR ResNet-18, width 64, 32×32
    (): 140.1866,
    ("layer1.1",): 121.3123,
    ("layer3.1", "layer4.1"): 102.4379,
    ("layer2.1", "layer3.1", "layer4.1"): 83.5635,
    ("layer1.1", "layer2.1", "layer3.1", "layer4.1"): 64.6892,
}


@pytest.mark.parametrize(("remove", "mmacs"), GOLDEN_MMACS.items())
def test_golden_macs_of_the_full_width_resnet(
    authors: tuple[nn.Module, Path], remove: tuple[str, ...], mmacs: float, tmp_path: Path
) -> None:
    report = collapse_onnx(authors[1], tmp_path / "shallow.onnx", list(remove))
    assert report.after.macs / 1e6 == pytest.approx(mmacs, abs=5e-5)


def test_golden_macs_of_the_authors_mobilenet(tmp_path: Path) -> None:
    model = create("mobilenetv2_cifar", 10).eval()
    path = export_onnx(model, torch.zeros(1, 3, 32, 32), tmp_path / "model.onnx")
    assert graph_size(load_onnx(path)).macs / 1e6 == pytest.approx(87.9764, abs=5e-5)


def test_neighbours_in_any_order_and_in_two_steps(
    authors: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    model, source = authors
    images = torch.randn(4, 3, 32, 32)
    neighbours = ["layer1.1", "layer1.0"]
    collapse_onnx(source, tmp_path / "both.onnx", neighbours)
    assert_same_network(tmp_path / "both.onnx", bypass(model, neighbours), images)
    collapse_onnx(source, tmp_path / "one.onnx", neighbours[:1])
    collapse_onnx(tmp_path / "one.onnx", tmp_path / "two.onnx", neighbours[1:])
    assert_same_network(tmp_path / "two.onnx", bypass(model, neighbours), images)


def test_nothing_removed_is_the_same_network(
    authors: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    report = collapse_onnx(authors[1], tmp_path / "same.onnx", [])
    assert report.before == report.after
    assert_same_network(tmp_path / "same.onnx", authors[0], torch.randn(2, 3, 32, 32))


def test_names_metadata_and_the_dynamic_batch_are_kept(
    authors: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    original = load_onnx(authors[1])
    collapse_onnx(authors[1], tmp_path / "shallow.onnx", ["layer2.1"])
    shallow = load_onnx(tmp_path / "shallow.onnx")
    assert [v.name for v in shallow.graph.input] == ["images"]
    assert [v.name for v in shallow.graph.output] == ["logits"]
    assert shallow.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    names = {node.name for node in original.graph.node}
    assert {node.name for node in shallow.graph.node} < names
    assert all(any(p.key == SCOPES_KEY for p in n.metadata_props) for n in shallow.graph.node)
    assert set(read_boundaries(shallow)) == set(read_boundaries(original)) - {"layer2.1"}
    assert shallow.opset_import == original.opset_import


def test_a_changed_weight_is_noticed(authors: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """The comparison that guards every collapse can fail."""
    model, source = authors
    collapse_onnx(source, tmp_path / "shallow.onnx", ["layer2.1"])
    with pytest.raises(AssertionError):
        assert_same_network(tmp_path / "shallow.onnx", model, torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["layer9.1"], r"no block 'layer9\.1'.*did you mean 'layer4\.1'"),
        (["layer2.0"], r"'layer2\.0' cannot be removed: it changes shape \(64, 16, 16\) to"),
    ],
)
def test_a_block_that_cannot_be_removed_is_an_error(
    authors: tuple[nn.Module, Path], remove: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BlockError, match=message):
        collapse_onnx(authors[1], tmp_path / "shallow.onnx", remove)
    assert not any(tmp_path.iterdir())


def tiny(tmp_path: Path, nodes: list, boundary: Boundary) -> Path:
    """Write a graph of (n, 4) tensors, x in and y out, with one recorded block."""
    shape = ["batch", 4]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    record_boundaries(model, [boundary])
    onnx.save(model, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def test_more_than_one_activation_entering_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Add", ["a", "x"], ["b"], "add"),
        helper.make_node("Tanh", ["b"], ["y"], "tanh"),
    ]
    source = tiny(tmp_path, nodes, Boundary("block", ["a", "x"], ["b"], ""))
    with pytest.raises(BlockError, match=r"activations entering are \['a', 'x'\]"):
        collapse_onnx(source, tmp_path / "shallow.onnx", ["block"])


def test_a_block_at_the_end_leaves_the_output_its_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Tanh", ["a"], ["y"], "tanh"),
    ]
    source = tiny(tmp_path, nodes, Boundary("block", ["a"], ["y"], ""))
    collapse_onnx(source, tmp_path / "shallow.onnx", ["block"])
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(runner(tmp_path / "shallow.onnx")(x), np.maximum(x, 0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[: len(b) // 2], "not a valid ONNX model"),
        (lambda b: b"", "not a valid ONNX model"),
        (lambda b: b"not onnx at all" * 50, "not a valid ONNX model"),
    ],
)
def test_a_broken_file_is_named(
    authors: tuple[nn.Module, Path],
    damage: Callable[[bytes], bytes],
    message: str,
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(damage(authors[1].read_bytes()))
    with pytest.raises(ArtifactError, match=rf"broken\.onnx.*{message}"):
        collapse_onnx(broken, tmp_path / "shallow.onnx", ["layer1.0"])
    with pytest.raises(ArtifactError, match="is not a file"):
        collapse_onnx(tmp_path / "none.onnx", tmp_path / "shallow.onnx", [])


def test_macs_that_cannot_be_counted_are_absent_not_zero(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["x"] * 3, ["y"], "einsum", equation="ij,ij,ij->ij")]
    path = tiny(tmp_path, nodes, Boundary("block", [], [], ""))
    assert graph_size(load_onnx(path)).macs is None


@pytest.mark.parametrize(
    ("node", "macs"),
    [
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="nc,co->no"), 3 * 5),
        (helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2), 7 * (8 * 3 + 8 * 2)),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=1), 3 * 7 * 7 * 5 * 2 * 2),
    ],
)
def test_macs_of_rarer_operators(node: onnx.NodeProto, macs: int) -> None:
    x, weights = {
        "Einsum": (["batch", 3], {"w": [3, 5]}),
        "LSTM": ([7, 1, 3], {"w": [1, 8, 3], "r": [1, 8, 2]}),
        "ConvTranspose": (["batch", 3, 7, 7], {"w": [3, 5, 2, 2]}),
    }[node.op_type]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor(name, TensorProto.FLOAT, dims, np.zeros(math.prod(dims)))
            for name, dims in weights.items()
        ],
    )
    assert graph_size(helper.make_model(graph)).macs == macs


def test_shapes_that_inference_does_not_see_through_come_from_the_exporter(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Unique", ["shape"], ["reshaped_to"]),  # inference gives up here
        helper.make_node("Reshape", ["x", "reshaped_to"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    path = tiny(tmp_path, nodes, Boundary("block", [], [], ""))
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.zeros(16)))
    assert graph_size(model).macs is None
    for name in "ab":
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["9*batch", 4])
        model.graph.value_info.append(value)
    assert graph_size(model).macs == 9 * 4 * 4


def test_damaged_boundaries_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = tiny(tmp_path, nodes, Boundary("block", [], [], ""))
    model = load_onnx(path)
    model.metadata_props[0].value = "[{]"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="block boundaries in the ONNX file are damaged"):
        collapse_onnx(path, tmp_path / "shallow.onnx", [])


def test_a_foreign_file_without_boundaries_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = tiny(tmp_path, nodes, Boundary("block", [], [], ""))
    model = load_onnx(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="records no block boundaries"):
        collapse_onnx(path, tmp_path / "shallow.onnx", [])
