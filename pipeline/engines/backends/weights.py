"""The weights of an ONNX file by data type, and the search for them in the bytes of an engine."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ArtifactError, BackendError

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
    as_float: Callable[[], NDArray[np.float32]]  # what it stands for, dequantised if need be

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
    """

    weight_bytes: dict[str, int]
    unseen: int


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
    """Look for the `LARGEST` weights of an ONNX file in an engine, as stored and in float32.

    An engine may store a weight in an order of its own, scaled or padded: then it stays unseen.
    """
    ordered = sorted(weights(source), key=lambda weight: -weight.values.size)
    found: Counter[str] = Counter()
    unseen = 0
    for weight in ordered[:LARGEST]:
        if any(run in plan for run in _runs(weight.values)):
            found[weight.kind] += weight.values.nbytes
        elif any(run in plan for run in _runs(weight.as_float())):
            found["float32"] += ITEM_BYTES["float32"] * weight.values.size
        else:
            unseen += weight.values.size
    return Found(dict(found), unseen)


def weights(source: Path) -> Iterator[Weight]:
    """Yield the weights of an ONNX file; see `weight_bytes` for what it raises."""
    from onnx import numpy_helper

    model = read_model(source)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {
        node.input[0]: node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and set(node.input) - {""} <= set(constants)
    }
    for name, tensor in constants.items():
        if len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        if str(values.dtype) in ITEM_BYTES:
            yield Weight(name, values, partial(_as_float, values, scales.get(name), constants))


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


def _as_float(values: NDArray[Any], node: Any, constants: dict[str, Any]) -> NDArray[np.float32]:
    """Return (values - zero point) · scale, per tensor or per channel, where a node says so."""
    if node is None:
        return values.astype(np.float32)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    steps, *zero_points = (
        _along(axis, constants[name], values.ndim) for name in node.input[1:] if name
    )
    exact: NDArray[np.float32] = values.astype(np.float32) - sum(zero_points)
    return exact * steps


def _along(axis: int, tensor: Any, ndim: int) -> NDArray[np.float32]:
    """Return one value, or one per channel of the axis, to broadcast over `ndim` dimensions."""
    from onnx import numpy_helper

    given: NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
    channels = [-1 if dim == axis else 1 for dim in range(ndim)]
    return given if given.size == 1 else given.reshape(channels)


def _runs(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield a run of bytes from the middle of a tensor in every layout, where one says enough."""
    for layout in LAYOUTS.get(values.ndim, [tuple(range(values.ndim))]):
        flat = np.ascontiguousarray(values.transpose(layout)).reshape(-1)
        start = len(flat) // 2
        run = flat[start : start + RUN_BYTES // values.itemsize].tobytes()
        if len(set(run)) >= DISTINCT:
            yield run
