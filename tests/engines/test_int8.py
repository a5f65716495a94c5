"""Int8 graphs: what is quantised, in which types, for whom, and that nothing is printed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from models.errors import ArtifactError
from models.zoo import create
from pipeline.engines.precision.dtypes import element_types, operators_by_type, weight_bytes
from pipeline.engines.precision.int8 import (
    ONNXRUNTIME,
    SCHEMES,
    SYMMETRIC,
    Scheme,
    quantisable,
    quantise,
)
from pipeline.export.boundaries import read_boundaries
from pipeline.export.exporter import export_onnx
from pipeline.export.parity import compare
from pipeline.export.session import runner

BOTH = pytest.mark.parametrize("scheme", [SYMMETRIC, ONNXRUNTIME], ids=["symmetric", "onnxruntime"])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnet") / "model.onnx"
    model = create("resnet18_cifar", 10, width=8).eval()
    return onnx.load(export_onnx(model, torch.zeros(1, 3, 32, 32), path))


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, 32, 32)).astype(np.float32)


def quantised(model: ModelProto, scheme: Scheme, **keep: list[str]) -> ModelProto:
    with TemporaryDirectory() as scratch:
        return quantise(model, images(40), Path(scratch), scheme, **keep)


@BOTH
def test_it_is_the_same_network_with_weights_of_one_byte(
    scheme: Scheme, resnet: ModelProto
) -> None:
    result = quantised(resnet, scheme)
    onnx.checker.check_model(result, full_check=True)
    weights = sum(len(numpy_helper.to_array(t).ravel()) for t in _products(resnet))
    assert weight_bytes(result)["int8"] == pytest.approx(weights, rel=0.01)
    assert weight_bytes(result)["float32"] < 0.1 * weights  # scales, and biases
    expected, got = (runner(m.SerializeToString())(images(64, 1)) for m in (resnet, result))
    assert compare(expected, got).cosine > 0.99


def _products(model: ModelProto) -> list[TensorProto]:
    names = {n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    return [tensor for tensor in model.graph.initializer if tensor.name in names]


def test_tensorrts_graph_has_no_offsets_and_no_integer_bias(resnet: ModelProto) -> None:
    result = quantised(resnet, SYMMETRIC)
    types = element_types(result)
    constants = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    pairs = [n for n in result.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert types[node.input[2]] == TensorProto.INT8
        assert not constants[node.input[2]].any()
    assert "int32" not in weight_bytes(result)


def test_in_tensorrts_graph_nothing_stands_between_a_product_and_what_follows(
    resnet: ModelProto,
) -> None:
    result = quantised(resnet, SYMMETRIC)
    made_by = {name: node.op_type for node in result.graph.node for name in node.output}
    quantises = [n for n in result.graph.node if n.op_type == "QuantizeLinear"]
    assert not {"Conv", "Gemm"} & {made_by.get(node.input[0]) for node in quantises}


def test_onnxruntimes_graph_stays_in_unsigned_integers(resnet: ModelProto) -> None:
    operators = operators_by_type(quantised(resnet, ONNXRUNTIME))
    assert "Relu" not in operators
    for kind in ("Conv", "Add", "MaxPool", "Gemm"):
        assert set(operators[kind]) == {"uint8"}


@BOTH
def test_in_a_transformer_only_products_with_weights_are_quantised(
    scheme: Scheme, transformer: ModelProto
) -> None:
    operators = operators_by_type(quantised(transformer, scheme))
    assert operators["MatMul"]["float32"] == 4  # queries with keys, scores with values
    assert sum(operators["MatMul"].values()) - 4 == 8
    for kind in ("LayerNormalization", "Softmax", "Gelu", "Add"):
        assert set(operators[kind]) == {"float32"}


def test_sums_of_convolutions_and_gates_are_quantised_on_onnxruntime_alone() -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["conv"], name="product"),
        helper.make_node("Sigmoid", ["conv"], ["gate"], name="sigmoid"),
        helper.make_node("Mul", ["conv", "gate"], ["silu"], name="gated"),
        helper.make_node("Conv", ["silu", "w"], ["branch"], name="product again"),
        helper.make_node("Add", ["silu", "branch"], ["sum"], name="residual"),
        helper.make_node("Mul", ["sum", "s"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "s"], ["logits"], name="bias"),
    ]
    weights = [numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), name) for name in "ws"]
    model = helper.make_model(helper.make_graph(nodes, "gates", [], [], weights))
    assert [n.name for n in quantisable(model, SYMMETRIC)] == ["product", "product again"]
    chosen = ["product", "sigmoid", "gated", "product again", "residual"]
    assert [n.name for n in quantisable(model, ONNXRUNTIME)] == chosen


@BOTH
def test_what_is_kept_stays_in_float32(scheme: Scheme, resnet: ModelProto) -> None:
    first = next(node for node in resnet.graph.node if node.op_type == "Conv")
    result = quantised(resnet, scheme, keep=[first.name])
    [same] = [node for node in result.graph.node if node.name == first.name]
    [weight] = [t for t in result.graph.initializer if t.name == same.input[1]]
    assert weight.data_type == TensorProto.FLOAT


@BOTH
def test_blocks_survive(scheme: Scheme, resnet: ModelProto, transformer: ModelProto) -> None:
    for model in (resnet, transformer):
        result = quantised(model, scheme)
        assert [p.key for p in result.metadata_props] == [p.key for p in model.metadata_props]
        tensors = {name for node in result.graph.node for name in [*node.input, *node.output]}
        boundaries = [b for b in read_boundaries(result).values() if not b.reason]
        assert {name for b in boundaries for name in b.inputs + b.outputs} <= tensors


@BOTH
def test_the_same_graph_comes_twice_and_the_original_is_untouched(
    scheme: Scheme, resnet: ModelProto, tmp_path: Path
) -> None:
    before = resnet.SerializeToString()
    for other in (*SCHEMES.values(), scheme):  # what came before makes no difference
        again = quantise(resnet, images(40), tmp_path, other).SerializeToString()
    assert quantised(resnet, scheme).SerializeToString() == again
    assert resnet.SerializeToString() == before


def test_ranges_come_from_the_images(resnet: ModelProto, tmp_path: Path) -> None:
    def scale(factor: int) -> float:
        scratch = tmp_path / str(factor)
        scratch.mkdir(exist_ok=True)
        result = quantise(resnet, images(8) * np.float32(factor), scratch, SYMMETRIC)
        [tensor] = [t for t in result.graph.initializer if t.name == "images_scale"]
        return float(numpy_helper.to_array(tensor))

    assert scale(1) == pytest.approx(np.abs(images(8)).max() / 127, rel=1e-3)
    assert scale(2) == pytest.approx(2 * scale(1), rel=1e-6)


def test_nothing_is_printed_or_logged(
    resnet: ModelProto, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime.quantization  # noqa: F401 - what importing says of the machine

    capfd.readouterr()
    quantised(resnet, ONNXRUNTIME)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_graph_with_nothing_to_quantise_is_named(resnet: ModelProto) -> None:
    everything = [node.name for node in resnet.graph.node]
    with pytest.raises(ArtifactError, match="none of Conv, Gemm, MatMul to quantise"):
        quantised(resnet, SYMMETRIC, keep=everything)
