"""The data types in an ONNX graph: of its tensors and weights, and what operators compute in.

An ONNX graph is strongly typed; builders of engines take the precision from it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import ModelProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from models.errors import ArtifactError

FAILURES = (  # what onnx and ONNX Runtime's converter and quantiser raise
    AssertionError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# They carry values from one type to another and compute nothing.
CONVERSIONS = {"Cast", "QuantizeLinear", "DequantizeLinear"}


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise `ArtifactError` with `what` and the first line of the reason where a library fails."""
    try:
        yield
    except FAILURES as e:
        reason = str(e).strip().partition("\n")[0]
        raise ArtifactError(f"{what}: {type(e).__name__}: {reason}") from e


def require_no_inner_graphs(model: ModelProto) -> None:
    """Raise `ArtifactError` where an operator holds a graph of its own (If, Loop, Scan)."""
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ArtifactError(
                f"{node.op_type} {node.name!r} holds a graph: its types cannot change"
            )


def element_types(model: ModelProto) -> dict[str, int]:
    """Return the data type of every tensor that is recorded in the graph or can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def weight_bytes(model: ModelProto) -> dict[str, int]:
    """Return how many bytes the graph's constants take, by data type, e.g. ``float16``."""
    total: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = tensor_dtype_to_np_dtype(tensor.data_type)
        total[dtype.name] += math.prod(tensor.dims) * dtype.itemsize
    return dict(sorted(total.items()))


def operators_by_type(model: ModelProto) -> dict[str, dict[str, int]]:
    """Return how many operators of each kind compute in which data type: {kind: {type: number}}.

    The type is that of the first input; behind a DequantizeLinear, that of the integers it reads,
    since engines compute in them. Conversions do not count, nor do operators without inputs.
    """
    types = element_types(model)
    integers = {
        node.output[0]: types.get(node.input[0], TensorProto.UNDEFINED)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for node in model.graph.node:
        if node.op_type in CONVERSIONS or not node.input:
            continue
        data_type = integers.get(node.input[0], types.get(node.input[0], TensorProto.UNDEFINED))
        known = data_type != TensorProto.UNDEFINED
        found[node.op_type][tensor_dtype_to_np_dtype(data_type).name if known else "unknown"] += 1
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}
