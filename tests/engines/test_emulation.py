"""Half precision emulated: against torch rounding after every operator, and overflow that shows."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from tiny_onnx import some_images
from torch import Tensor
from torch.nn import functional

from models.errors import ArtifactError
from pipeline.engines.precision.dtypes import weight_bytes
from pipeline.engines.precision.emulation import emulated
from pipeline.engines.precision.half import to_half
from pipeline.export.parity import compare
from pipeline.export.session import runner

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def rounding_by_hand(model: ModelProto, images: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Compute `tiny_onnx`'s network in float32, rounded after every operator."""

    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    weights = [
        rounded(torch.from_numpy(numpy_helper.to_array(t).copy())) for t in model.graph.initializer
    ]
    x = rounded(torch.from_numpy(images))
    for weight in weights[:-1]:
        x = rounded(rounded(functional.conv2d(x, weight, padding=1)).relu())
    return rounded(rounded(x.mean((2, 3))) @ weights[-1].T).numpy()


@pytest.mark.parametrize("precision", TYPES)
def test_it_rounds_where_torch_rounds(precision: str, tiny: ModelProto) -> None:
    """But for sums in another order, which may round to the neighbour."""
    images = some_images(32)
    expected = rounding_by_hand(tiny, images, TYPES[precision])
    got = runner(emulated(to_half(tiny, precision)).SerializeToString())(images)
    exact = runner(tiny.SerializeToString())(images)
    difference = np.abs(got - expected).mean()
    assert difference < 0.2 * np.abs(exact - expected).mean()
    step = torch.from_numpy(got).to(TYPES[precision]).float().numpy()
    np.testing.assert_array_equal(got, step)  # the result itself is rounded


@pytest.mark.parametrize("precision", TYPES)
def test_no_level_of_optimisation_removes_the_rounding(precision: str, tiny: ModelProto) -> None:
    model = emulated(to_half(tiny, precision)).SerializeToString()
    images = some_images(8)
    levels = onnxruntime.GraphOptimizationLevel
    results = []
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"images": images})[0])
    exact = runner(tiny.SerializeToString())(images)
    assert np.abs(results[0] - results[1]).max() < 0.2 * np.abs(results[0] - exact).max()


def test_overflow_of_float16_shows_and_bfloat16_holds_it(tiny: ModelProto) -> None:
    """A graph whose second activation exceeds 65504, though its output does not."""
    for name, factor in (("w0", 1e4), ("w1", 1e-4)):
        [tensor] = [t for t in tiny.graph.initializer if t.name == name]
        scaled = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(scaled, name))
    images = some_images(4) * np.float32(100)
    exact = runner(tiny.SerializeToString())(images)
    assert np.isfinite(exact).all()
    narrow = runner(emulated(to_half(tiny, "fp16")).SerializeToString())(images)
    assert not np.isfinite(narrow).all()
    wide = runner(emulated(to_half(tiny, "bf16")).SerializeToString())(images)
    assert compare(exact, wide).cosine > 0.99


@pytest.mark.parametrize("precision", TYPES)
def test_a_transformer_runs_with_errors_of_its_type(
    precision: str, transformer: ModelProto
) -> None:
    images = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    result = emulated(to_half(transformer, precision))
    onnx.checker.check_model(result, full_check=True)
    exact, got = (runner(m.SerializeToString())(images) for m in (transformer, result))
    error = compare(exact, got).max_rel
    unit = float(torch.finfo(TYPES[precision]).eps)
    assert unit / 10 < error < 20 * unit


def test_other_graphs_come_back_as_they_were(tiny: ModelProto) -> None:
    del tiny.graph.value_info[:]
    assert emulated(tiny).SerializeToString() == tiny.SerializeToString()


def test_the_typed_graph_is_untouched(tiny: ModelProto) -> None:
    typed = to_half(tiny, "bf16")
    before = typed.SerializeToString()
    assert set(weight_bytes(emulated(typed))) == {"float32"}
    assert typed.SerializeToString() == before


def test_graphs_inside_operators_are_rejected() -> None:
    branch = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["yes"], ["logits"], "choice", then_branch=branch)
    with pytest.raises(ArtifactError, match=r"If 'choice' holds a graph"):
        emulated(helper.make_model(helper.make_graph([node], "conditional", [], [])))
