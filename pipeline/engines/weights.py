"""The weights of an ONNX file by data type, and the search for them in the bytes of an engine."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ArtifactError, BackendError

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
RUN_BYTES = 64  # of a weight that are looked for
DISTINCT = 8  # values a run must have: zeros are found everywhere
LARGEST = 64  # weights that are looked for
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
    as_float: NDArray[np.float32]  # what it stands for: dequantised, where it is quantised

    @property
    def kind(self) -> str:
        """The data type, as ONNX names it."""
        return str(self.values.dtype)


@dataclass(frozen=True)
class Found:
    """Which weights of a graph an engine holds as they are.

    Attributes:
        weight_bytes: of the weights found, by data type.
        unseen: number of weights that were looked for and not found.
        skipped: number of weights that were not looked for.
    """

    weight_bytes: dict[str, int]
    unseen: int
    skipped: int


def weight_bytes(source: Path) -> dict[str, int]:
    """Return the bytes of an ONNX file's weights by data type.

    Raises:
        ArtifactError: there is no such file.
        BackendError: it is not an ONNX model.
    """
    found: Counter[str] = Counter()
    for weight in weights(source):
        found[weight.kind] += weight.values.nbytes
    return dict(found)


def find_weights(plan: bytes, source: Path) -> Found:
    """Look for the largest weights of an ONNX file in an engine, as stored and in float32.

    An engine may store a weight in an order of its own, scaled or padded: then it stays unseen.
    """
    ordered = sorted(weights(source), key=lambda weight: -weight.values.size)
    found: Counter[str] = Counter()
    unseen = 0
    for weight in ordered[:LARGEST]:
        if any(run in plan for run in _runs(weight.values)):
            found[weight.kind] += weight.values.nbytes
        elif any(run in plan for run in _runs(weight.as_float)):
            found["float32"] += weight.as_float.nbytes
        else:
            unseen += weight.values.size
    skipped = sum(weight.values.size for weight in ordered[LARGEST:])
    return Found(dict(found), unseen, skipped)


def weights(source: Path) -> Iterator[Weight]:
    """Yield the weights of an ONNX file; see `weight_bytes` for what it raises."""
    from onnx import numpy_helper

    model = read_model(source)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    for name, tensor in constants.items():
        if len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if str(values.dtype) in ITEM_BYTES:
            node = scales.get(name)
            floats = _dequantised(values, node, constants) if node else values.astype(np.float32)
            yield Weight(name, values, floats)


def read_model(source: Path) -> Any:
    """Read an ONNX file without checking it; see `weight_bytes` for what it raises."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(source)
    except FileNotFoundError as e:
        raise ArtifactError(f"{source} is missing; `dvc repro` makes it") from e
    except DecodeError as e:
        raise BackendError(f"{source} is not an ONNX model ({e}); make it again") from e


def _dequantised(values: NDArray[Any], node: Any, constants: dict[str, Any]) -> NDArray[np.float32]:
    """Return (values - zero point) · scale, per tensor or per channel."""
    from onnx import numpy_helper

    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]

    def spread(name: str) -> NDArray[Any]:
        given = numpy_helper.to_array(constants[name]).astype(np.float32)
        return given if given.size == 1 else given.reshape(shape)

    zero_point = spread(node.input[2]) if len(node.input) > 2 and node.input[2] else 0
    result: NDArray[np.float32] = (values.astype(np.float32) - zero_point) * spread(node.input[1])
    return result


def _runs(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield a run of bytes from the middle of a tensor in every layout, where one says enough."""
    for layout in LAYOUTS.get(values.ndim, [tuple(range(values.ndim))]):
        flat = np.ascontiguousarray(values.transpose(layout)).reshape(-1)
        start = len(flat) // 2
        run = flat[start : start + RUN_BYTES // values.itemsize].tobytes()
        if len(set(run)) >= DISTINCT:
            yield run
