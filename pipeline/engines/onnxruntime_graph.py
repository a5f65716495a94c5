"""The types in which a graph that ONNX Runtime has optimised computes."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.engines.weights import read_model

MATRIX = re.compile("Conv|Gemm|MatMul|Attention")
INTEGER = re.compile("^Q|Integer|^DynamicQuantizeMatMul$")  # QLinearConv, MatMulIntegerToFloat, …


def computes_in(path: Path) -> dict[str, int]:
    """Return the number of operators with weights by the type they compute in.

    Those are convolutions and matrix products with a constant of two or more dimensions. A weight
    that is dequantised on its way counts as the float that comes out.
    """
    model = read_model(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantised = {
        node.output[0]: constants[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    kinds = Counter(
        _kind(node, constants, dequantised)
        for node in model.graph.node
        if MATRIX.search(node.op_type)
    )
    return {kind: number for kind, number in kinds.items() if kind}


def _kind(node: Any, constants: dict[str, Any], dequantised: dict[str, Any]) -> str:
    """Return the type an operator computes in, "" where it has no weights."""
    from onnx.helper import tensor_dtype_to_np_dtype

    weights = [constants[name] for name in node.input if name in constants]
    weights = [tensor for tensor in weights if len(tensor.dims) >= 2]
    scales = [dequantised[name] for name in node.input if name in dequantised]
    if not weights and not scales:
        return ""
    if INTEGER.search(node.op_type):
        return "int8"
    [tensor, *_] = weights or scales
    return str(tensor_dtype_to_np_dtype(tensor.data_type))
