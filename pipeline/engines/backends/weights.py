"""The weights of an ONNX file by data type, and the search for them in the bytes of an engine."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.errors import BackendError
from pipeline.engines.backends.packages import read

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
RUN_BYTES = 64  # of a weight that are looked for
DISTINCT = 8  # values a run must have: zeros are found everywhere
LARGEST = 64  # tensors that are looked for
# How engines lay weights out: as ONNX does, channels last, input channels first.
LAYOUTS: dict[int, list[tuple[int, ...]]] = {
    2: [(0, 1), (1, 0)],
    4: [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3)],
}


@dataclass(frozen=True)
class Weight:
    """A constant of two or more dimensions in a graph."""

    name: str
    values: NDArray[Any]
    as_float: Callable[[], NDArray[np.float32]]  # dequantised where they are integers


def weight_bytes(source: Path) -> dict[str, int]:
    """Return the bytes of an ONNX file's weights by data type.

    Raises:
        ArtifactError: there is no such file.
        BackendError: it is not an ONNX model.
    """
    found: Counter[str] = Counter()
    for weight in weights(source):
        found[str(weight.values.dtype)] += weight.values.nbytes
    return dict(found)


def find_weights(plan: bytes, source: Path) -> tuple[dict[str, int], int]:
    """Look for the `LARGEST` weights of an ONNX file in an engine, as stored and in float32.

    An engine may store a weight in an order of its own, scaled or padded: then it is not found.

    Returns:
        The bytes of the weights found, by data type, and the number of those not found.
    """
    ordered = sorted(weights(source), key=lambda weight: -weight.values.size)
    found: Counter[str] = Counter()
    not_found = 0
    for weight in ordered[:LARGEST]:
        if any(run in plan for run in _runs(weight.values)):
            found[str(weight.values.dtype)] += weight.values.nbytes
        elif any(run in plan for run in _runs(weight.as_float())):
            found["float32"] += ITEM_BYTES["float32"] * weight.values.size
        else:
            not_found += weight.values.size
    return dict(found), not_found


def weights(source: Path) -> Iterator[Weight]:
    """Yield the weights of an ONNX file; see `weight_bytes` for what it raises."""
    graph = read_model(source).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scaled_by = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and {*node.input} - {""} <= constants.keys()
    }
    for name, tensor in constants.items():
        values = numpy_helper.to_array(tensor)
        if values.ndim >= 2 and str(values.dtype) in ITEM_BYTES:
            yield Weight(name, values, partial(_as_float, values, scaled_by.get(name), constants))


def read_model(source: Path) -> ModelProto:
    """Read an ONNX file without checking it; see `weight_bytes` for what it raises."""
    try:
        return onnx.load_model_from_string(read(source))
    except DecodeError as e:
        raise BackendError(f"{source} is not an ONNX model ({e}); make it again") from e


def _as_float(
    values: NDArray[Any], node: NodeProto | None, constants: dict[str, TensorProto]
) -> NDArray[np.float32]:
    """Return a weight in float32, dequantised where a DequantizeLinear reads it."""
    if node is None:
        return values.astype(np.float32)
    feeds = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
    [floats] = ReferenceEvaluator(node).run(None, feeds)
    return np.asarray(floats, np.float32)


def _runs(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield a run of bytes from the middle of a tensor in every layout, where it is distinctive."""
    for layout in LAYOUTS.get(values.ndim, [tuple(range(values.ndim))]):
        flat = np.ascontiguousarray(values.transpose(layout)).reshape(-1)
        start = len(flat) // 2
        run = flat[start : start + RUN_BYTES // values.itemsize].tobytes()
        if len(set(run)) >= DISTINCT:
            yield run
