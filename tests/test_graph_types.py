"""What a graph computes in, and what its weights take."""

from pathlib import Path

import onnx
from onnx import TensorProto
from tiny_onnx import some_images, write_network

from pipeline.graph_types import element_types, operators_by_type, weight_bytes
from pipeline.half_precision import to_half
from pipeline.quantize import SYMMETRIC, Quantiser

# Two convolutions (8, 1, 3, 3) and (8, 8, 3, 3), and a classifier (5, 8).
WEIGHTS = 8 * 9 + 8 * 8 * 9 + 5 * 8


def test_of_a_float32_graph(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx")
    model = onnx.load(tmp_path / "tiny.onnx")
    assert weight_bytes(model) == {"float32": 4 * WEIGHTS}
    assert operators_by_type(model) == {
        kind: {"float32": number}
        for kind, number in {
            "Conv": 2,
            "Flatten": 1,
            "Gemm": 1,
            "GlobalAveragePool": 1,
            "Relu": 2,
        }.items()
    }
    assert element_types(model)["conv0"] == TensorProto.FLOAT  # not recorded, inferred


def test_of_a_half_graph_casts_do_not_count(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx")
    typed = to_half(onnx.load(tmp_path / "tiny.onnx"), "bf16")
    assert weight_bytes(typed) == {"bfloat16": 2 * WEIGHTS}
    operators = operators_by_type(typed)
    assert "Cast" not in operators
    assert operators["Conv"] == {"bfloat16": 2}


def test_of_a_quantised_graph_products_compute_in_the_integers_they_read(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx")
    with Quantiser(onnx.load(tmp_path / "tiny.onnx"), some_images(8)) as quantiser:
        result = quantiser.quantise(SYMMETRIC)
    operators = operators_by_type(result)
    assert operators["Conv"] == {"int8": 2}
    assert operators["Relu"] == {"float32": 2}
    assert weight_bytes(result)["int8"] >= WEIGHTS
