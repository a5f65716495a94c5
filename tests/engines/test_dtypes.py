"""What a graph computes in, and what its weights take."""

from pathlib import Path

from onnx import ModelProto, TensorProto
from tiny_onnx import some_images

from pipeline.engines.precision.dtypes import element_types, operators_by_type, weight_bytes
from pipeline.engines.precision.half import to_half
from pipeline.engines.precision.int8 import SYMMETRIC, quantise

WEIGHTS = 8 * 9 + 8 * 8 * 9 + 5 * 8
NUMBERS = {"Conv": 2, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 2}


def test_of_a_float32_graph(tiny: ModelProto) -> None:
    assert weight_bytes(tiny) == {"float32": 4 * WEIGHTS}
    assert operators_by_type(tiny) == {kind: {"float32": n} for kind, n in NUMBERS.items()}
    assert element_types(tiny)["conv0"] == TensorProto.FLOAT  # not recorded, inferred


def test_of_a_half_graph_casts_do_not_count(tiny: ModelProto) -> None:
    typed = to_half(tiny, "bf16")
    assert weight_bytes(typed) == {"bfloat16": 2 * WEIGHTS}
    assert operators_by_type(typed) == {kind: {"bfloat16": n} for kind, n in NUMBERS.items()}


def test_of_a_quantised_graph_products_compute_in_the_integers_they_read(
    tiny: ModelProto, tmp_path: Path
) -> None:
    result = quantise(tiny, some_images(8), tmp_path, SYMMETRIC)
    operators = operators_by_type(result)
    assert operators["Conv"] == {"int8": 2}
    assert operators["Relu"] == {"float32": 2}
    assert weight_bytes(result)["int8"] >= WEIGHTS
