"""Graphs of every precision on a CPU; half precision with the rounding of a GPU.

ONNX Runtime's CPU provider computes float16 graphs in float32 without rounding in between, which
hides overflow, and has no bfloat16 convolution. Here every operator computes in float32, as a GPU
accumulates, and its result is rounded to the type it has in the graph. An engine may fuse operators
and round less often.
"""

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pipeline.core.arrays import Run
from pipeline.engines.precision.dtypes import HALF, element_types, require_no_inner_graphs
from pipeline.export.boundaries import load_onnx
from pipeline.export.session import runner

EMULATED = "half precision emulated: computed in float32, rounded after every operator"
IN_FLOAT32 = "each Q, DQ and operator computed in float32, as the ONNX standard defines them"

# Their results are among the values they read, which are rounded already.
EXACT = {
    *("Clip", "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu"),
    *("Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
}


def cpu_runner(path: Path, precision: str, backend: str | None) -> tuple[Run, str | None]:
    """Return a graph as a function, and how it is run where not as it stands.

    `backend` is the one for which alone the graph is meant; None: it is for all.
    """
    if precision in HALF:
        return runner(emulated(load_onnx(path)).SerializeToString()), EMULATED
    if precision == "int8" and backend is None:
        return runner(path, integer_kernels=False), IN_FLOAT32
    return runner(path), None


def emulated(model: ModelProto) -> ModelProto:
    """Return a float32 graph that computes what a half-precision graph computes on a GPU.

    After each operator a pair of casts rounds the result to its type and back; values beyond the
    range of float16 become infinite. ONNX Runtime keeps such pairs at every level of optimisation
    (tests/engines/test_emulation.py), so the graph runs like any other. Graphs without
    half-precision tensors come back unchanged.

    Raises:
        ArtifactError: an operator holds a graph of its own (If, Loop, Scan).
    """
    require_no_inner_graphs(model)
    types = element_types(model)
    half = {name: kind for name, kind in types.items() if kind in HALF.values()}
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for value in [*graph.input, *graph.output]:
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        graph.node.extend(_rounded(node, half))
    return result


def _rounded(node: NodeProto, half: dict[str, int]) -> list[NodeProto]:
    """Return the operator in float32, followed by the casts that round its results."""
    widened = NodeProto()
    widened.CopyFrom(node)
    for attribute in widened.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in HALF.values():
            attribute.i = TensorProto.FLOAT
    casts = []
    for index, name in enumerate(node.output):
        if name in half and node.op_type not in EXACT:
            exact, narrow = f"{name}/exact", f"{name}/half"
            widened.output[index] = exact
            casts.append(helper.make_node("Cast", [exact], [narrow], to=half[name]))
            casts.append(helper.make_node("Cast", [narrow], [name], to=TensorProto.FLOAT))
    return [widened, *casts]


def _widen(tensor: TensorProto) -> None:
    """Store a half-precision tensor as float32, in place."""
    if tensor.data_type in HALF.values():
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
