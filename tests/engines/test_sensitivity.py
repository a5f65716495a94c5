"""Operators that break a precision are found and kept in float32: real graphs, planted faults."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from tiny_onnx import some_images, write_network

from pipeline.engines.precision.emulation import emulated
from pipeline.engines.precision.half import float32_operators, to_half
from pipeline.engines.precision.int8 import SYMMETRIC, quantise
from pipeline.engines.precision.sensitivity import GROUPS, HEADROOM, convert_within, error_ratio
from pipeline.engines.precision.tolerances import TOLERANCES, Tolerance
from pipeline.export.parity import Parity, compare
from pipeline.export.session import runner

DEPTH = 8
IMAGES = some_images(64)


@pytest.fixture
def network(tmp_path: Path) -> ModelProto:
    write_network(tmp_path / "tiny.onnx", depth=DEPTH)
    return onnx.load(tmp_path / "tiny.onnx")


def scale(model: ModelProto, factors: dict[str, float]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            scaled = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


class Trials:
    """Compares graphs with the original and counts how often."""

    def __init__(self, model: ModelProto) -> None:
        self.expected = runner(model.SerializeToString())(IMAGES)
        self.number = 0

    def __call__(self, model: ModelProto) -> Parity:
        self.number += 1
        return compare(self.expected, runner(emulated(model).SerializeToString())(IMAGES))


def test_nothing_is_tried_where_the_whole_graph_is_within(network: ModelProto) -> None:
    measure = Trials(network)
    names = [node.name for node in network.graph.node]
    found = convert_within(
        TOLERANCES["fp16"], names, partial(to_half, network, "fp16"), rank=measure, measure=measure
    )
    assert measure.number == 1
    assert (found.kept, found.missed) == ([], "")
    assert found.error_ratio <= HEADROOM
    assert found.parity is not None


def test_operators_that_overflow_are_kept_in_float32(network: ModelProto) -> None:
    """The fifth convolution exceeds 65504; the sixth brings its result back."""
    scale(network, {"w4": 1e4, "w5": 1e-4})
    exact = runner(network.SerializeToString())
    assert np.isfinite(exact(IMAGES)).all()
    names = [node.name for node in network.graph.node]
    measure = Trials(network)
    found = convert_within(
        TOLERANCES["fp16"], names, partial(to_half, network, "fp16"), rank=measure, measure=measure
    )
    assert found.missed == ""
    assert {"node_conv4", "node_relu4", "node_conv5"} <= set(found.kept)
    assert len(found.kept) <= math.ceil(len(names) / 4)
    assert {name for name, _ in float32_operators(found.model)} == set(found.kept)
    assert found.kept == [name for name in names if name in found.kept]


def test_the_convolution_that_int8_ruins_is_kept_in_float32(
    network: ModelProto, tmp_path: Path
) -> None:
    """One channel a thousand times as large takes the range of the others away."""
    for name, axis, factor in (("w3", 0, 1000), ("w4", 1, 1 / 1000)):
        [tensor] = [t for t in network.graph.initializer if t.name == name]
        weight = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, 0)
        weight[0] *= factor
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(weight, 0, axis)), name)
        )
    convolutions = [n.name for n in network.graph.node if n.op_type in ("Conv", "Gemm")]
    measure = Trials(network)
    found = convert_within(
        Tolerance(max_rel=0.2, cosine=0.98, top1_agreement=0.8),
        convolutions,
        partial(quantise, network, IMAGES, tmp_path, SYMMETRIC),
        rank=measure,
        measure=measure,
    )
    assert found.kept[:1] == ["node_conv4"]  # it reads the channel
    assert found.missed == ""


def test_what_cannot_be_met_says_what_is_missed(network: ModelProto) -> None:
    names = [node.name for node in network.graph.node]
    measure = Trials(network)
    impossible = Tolerance(max_rel=1e-9, cosine=0.9, top1_agreement=0.5)
    found = convert_within(
        impossible, names, partial(to_half, network, "bf16"), rank=measure, measure=measure
    )
    assert "max_rel" in found.missed
    assert found.error_ratio > 1
    assert len(found.kept) <= math.ceil(len(names) / 4)


def test_the_search_is_bounded() -> None:
    """However many operators there are, so many measurements at most."""
    measured: list[ModelProto] = []

    def measure(model: ModelProto) -> Parity:
        measured.append(model)
        return Parity(1.0, 1.0, 0.0, 0.0)

    names = [f"node {number}" for number in range(1000)]
    tolerance = TOLERANCES["bf16"]
    convert_within(tolerance, names, lambda _: ModelProto(), rank=measure, measure=measure)
    assert len(measured) <= 1 + GROUPS + math.log2(GROUPS)


def test_the_error_ratio_is_the_largest_share_of_what_is_tolerated() -> None:
    tolerance = Tolerance(max_rel=0.1, cosine=0.9, top1_agreement=0.8)
    parity = Parity(max_abs=1.0, max_rel=0.02, cosine=0.95, top1_agreement=0.95)
    assert error_ratio(parity, tolerance) == pytest.approx(0.5)
    assert error_ratio(Parity(1.0, 0.2, 1.0, 1.0), tolerance) == pytest.approx(2)
    assert error_ratio(Parity(1.0, 0.0, 1.0, 0.7), tolerance) == pytest.approx(1.5)
    assert error_ratio(Parity(1.0, math.nan, 1.0, 1.0), tolerance) == math.inf
