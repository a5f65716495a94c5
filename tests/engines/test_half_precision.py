"""Graphs in float16 and bfloat16: their types, their weights, and what must survive."""

import itertools

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_onnx import some_images

from models.errors import ArtifactError
from pipeline.core.params import Batch, Build
from pipeline.engines.precision.dtypes import element_types, operators_by_type, weight_bytes
from pipeline.engines.precision.emulation import emulated
from pipeline.engines.precision.half import float32_operators, to_half
from pipeline.export.boundaries import read_boundaries
from pipeline.export.session import runner

TYPES = {"fp16": "float16", "bf16": "bfloat16"}
OPTIONS = Build(backends=[], compute_capabilities=["8.6"], batch=Batch(min=1, opt=4, max=9))


def network(nodes: list, weights: dict[str, np.ndarray], opset: int = 20) -> ModelProto:
    """Return a graph from "images" (batch, 4) to "logits" (batch, 4)."""
    images, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])
        for name in ("images", "logits")
    )
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", [images], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("precision", TYPES)
def test_everything_is_half_but_input_and_output(precision: str, transformer: ModelProto) -> None:
    typed = to_half(transformer, precision)
    types = element_types(typed)
    assert types["images"] == types["logits"] == TensorProto.FLOAT
    assert set(weight_bytes(typed)) == {TYPES[precision], "int64"}
    assert 2 * weight_bytes(typed)[TYPES[precision]] == weight_bytes(transformer)["float32"]
    kinds = {kind for found in operators_by_type(typed).values() for kind in found}
    assert kinds <= {TYPES[precision], "int64"}
    assert float32_operators(typed) == []


def test_it_computes_what_the_converter_of_onnx_runtime_does(transformer: ModelProto) -> None:
    """That converter knows float16 alone and leaves its first cast at the end of the graph."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = ModelProto()
    model.CopyFrom(transformer)
    theirs = convert_float_to_float16(model, keep_io_types=True)
    in_order = sorted(theirs.graph.node, key=lambda node: node.name != "graph_input_cast0")
    del theirs.graph.node[:]
    theirs.graph.node.extend(in_order)
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    expected, got = (
        runner(emulated(typed).SerializeToString())(images)
        for typed in (theirs, to_half(transformer, "fp16"))
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("precision", TYPES)
def test_blocks_and_module_paths_survive(precision: str, transformer: ModelProto) -> None:
    typed = to_half(transformer, precision)
    assert read_boundaries(typed) == read_boundaries(transformer)
    tensors = {name for node in typed.graph.node for name in [*node.input, *node.output]}
    boundaries = [b for b in read_boundaries(typed).values() if not b.reason]
    assert boundaries
    assert {name for b in boundaries for name in b.inputs + b.outputs} <= tensors
    paths = {node.name: node.metadata_props for node in typed.graph.node}
    for node in transformer.graph.node:
        assert paths[node.name] == node.metadata_props


@pytest.mark.parametrize("precision", TYPES)
def test_the_original_is_untouched_and_the_same_graph_comes_twice(
    precision: str, transformer: ModelProto
) -> None:
    before = transformer.SerializeToString()
    first, second = (to_half(transformer, precision).SerializeToString() for _ in range(2))
    assert first == second
    assert transformer.SerializeToString() == before


def test_bfloat16_weights_are_the_float32_ones_rounded_once(tiny: ModelProto) -> None:
    weights = {t.name: numpy_helper.to_array(t) for t in tiny.graph.initializer}
    for tensor in to_half(tiny, "bf16").graph.initializer:
        weight = torch.from_numpy(weights[tensor.name.removesuffix("/bfloat16")].copy())
        expected = weight.bfloat16().float().numpy()
        np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), expected)


@pytest.mark.parametrize("precision", TYPES)
def test_kept_operators_compute_in_float32_on_float32_weights(
    precision: str, tiny: ModelProto
) -> None:
    typed = to_half(_named(tiny), precision, keep=["Conv_0", "Gemm_6"])
    assert float32_operators(typed) == [("Conv_0", "Conv"), ("Gemm_6", "Gemm")]
    assert {t.name for t in typed.graph.initializer} == {"w0", f"w1/{TYPES[precision]}", "w2"}


@pytest.mark.parametrize("precision", TYPES)
def test_nothing_is_rounded_between_two_kept_operators(precision: str, tiny: ModelProto) -> None:
    named = _named(tiny)
    for keep in (
        [node.name for node in named.graph.node],
        ["Conv_0", "Relu_1"],
        ["Conv_2", "Relu_3"],
        ["Flatten_5", "Gemm_6"],
    ):
        typed = to_half(named, precision, keep)
        types = element_types(typed)
        kept = [node for node in typed.graph.node if node.name in keep]
        assert len(kept) == len(keep)
        for before, after in itertools.pairwise(kept):
            assert after.input[0] == before.output[0]
            assert types[before.output[0]] == TensorProto.FLOAT
        first, last = kept[0], kept[-1]
        assert first.input[0] == "images" or first.name != "Conv_0"
        assert last.output[0] == "logits" or last.name != "Gemm_6"


def test_with_all_operators_kept_the_graph_computes_what_it_did(tiny: ModelProto) -> None:
    named = _named(tiny)
    typed = to_half(named, "fp16", [node.name for node in named.graph.node])
    assert [n.op_type for n in typed.graph.node] == [n.op_type for n in tiny.graph.node]
    expected, got = (runner(m.SerializeToString())(some_images(4)) for m in (tiny, typed))
    np.testing.assert_array_equal(got, expected)


def test_a_kept_result_is_read_as_an_output_and_by_others() -> None:
    """The second operator reads the first's result in float32, which is also an output."""
    nodes = [
        helper.make_node("Relu", ["images"], ["logits"], name="first"),
        helper.make_node("Exp", ["logits"], ["second"], name="second"),
    ]
    model = network(nodes, {})
    [logits] = model.graph.output
    model.graph.output.add().CopyFrom(logits)
    model.graph.output[1].name = "second"
    typed = to_half(model, "fp16", ["first", "second"])
    assert [node.op_type for node in typed.graph.node] == ["Relu", "Exp"]


@pytest.mark.parametrize("precision", TYPES)
def test_any_operator_of_a_transformer_can_be_kept(precision: str, transformer: ModelProto) -> None:
    names = [node.name for node in transformer.graph.node]
    kinds = {node.op_type: node.name for node in transformer.graph.node}
    for name in kinds.values():
        kept = {found for found, _ in float32_operators(to_half(transformer, precision, [name]))}
        assert kept <= {name}  # nothing, where it computes in integers
    for some in (names[: len(names) // 2], names[::2], names[1::3]):
        typed = to_half(transformer, precision, some)
        assert {name for name, _ in float32_operators(typed)} <= set(some)
        read = {t for node in transformer.graph.node if node.name not in some for t in node.input}
        weights = {t.name: t.data_type for t in transformer.graph.initializer if t.name not in read}
        types = {t.name: t.data_type for t in typed.graph.initializer}
        assert weights
        assert weights.items() <= types.items()  # nobody else reads them: as they were


def test_a_weight_read_in_both_types_is_there_twice() -> None:
    """It is rounded for the operator in half precision, and exact for the other."""
    nodes = [
        helper.make_node("Add", ["images", "w"], ["sum"], name="kept"),
        helper.make_node("Mul", ["sum", "w"], ["logits"], name="half"),
    ]
    weight = np.array([1.0001, 2, 3, 4], np.float32)
    tensors = to_half(network(nodes, {"w": weight}), "fp16", ["kept"]).graph.initializer
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    np.testing.assert_array_equal(values["w"], weight)
    np.testing.assert_array_equal(values["w/float16"], weight.astype(np.float16))


def test_what_makes_float32_from_integers_stays() -> None:
    """Indices above 2048 are not exact in float16."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], name="shape"),
        helper.make_node("Cast", ["shape"], ["sizes"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["sizes"], ["total"], name="total", keepdims=0),
        helper.make_node("Add", ["images", "total"], ["logits"], name="add"),
    ]
    typed = to_half(network(nodes, {}), "fp16")
    types = element_types(typed)
    assert types["sizes"] == TensorProto.FLOAT
    assert operators_by_type(typed)["Add"] == {"float16": 1}


def test_a_graph_inside_an_operator_is_rejected() -> None:
    inner = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["yes"], ["logits"], "choice", then_branch=inner)
    with pytest.raises(ArtifactError, match="If 'choice' holds a graph"):
        to_half(network([node], {}), "fp16")


def _named(model: ModelProto) -> ModelProto:
    named = ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = f"{node.op_type}_{index}"
    return named


@pytest.mark.parametrize(("precision", "largest"), [("fp16", 65504.0), ("bf16", 3.3895314e38)])
def test_large_finite_weights_stay_finite(precision: str, largest: float) -> None:
    mask = np.array([np.finfo(np.float32).min, -np.inf, 0, 1], np.float32)
    model = network([helper.make_node("Add", ["images", "mask"], ["logits"])], {"mask": mask})
    [tensor] = to_half(model, precision).graph.initializer
    rounded = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_allclose(rounded, [-largest, -np.inf, 0, 1], rtol=1e-6)


def test_an_operator_without_bfloat16_stays_in_float32() -> None:
    nodes = [
        helper.make_node("Relu", ["images"], ["hidden"], name="relu"),
        helper.make_node("Celu", ["hidden"], ["logits"], name="celu"),  # float32 alone
    ]
    assert float32_operators(to_half(network(nodes, {}), "bf16")) == [("celu", "Celu")]


def test_resizing_takes_half_precision_and_scales_in_float32() -> None:
    shape = numpy_helper.from_array(np.array([0, 1, 2, 2]), "shape")
    flat = numpy_helper.from_array(np.array([0, -1]), "flat")
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["square"]),
        helper.make_node("Resize", ["square", "", "scales"], ["resized"], name="resize"),
        helper.make_node("Reshape", ["resized", "flat"], ["logits"]),
    ]
    model = network(nodes, {"scales": np.array([1, 1, 1, 1], np.float32)})
    model.graph.initializer.extend([shape, flat])
    for precision, kind in TYPES.items():
        assert operators_by_type(to_half(model, precision))["Resize"] == {kind: 1}


def test_a_graph_that_cannot_be_typed_is_named() -> None:
    nodes = [helper.make_node("Relu", ["nowhere"], ["logits"])]
    with pytest.raises(ArtifactError, match=r"cannot be typed in fp16: ValidationError.*nowhere"):
        to_half(network(nodes, {}), "fp16")
