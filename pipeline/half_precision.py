"""Type a float32 ONNX graph in float16 or bfloat16.

ONNX Runtime's converter decides where casts go, for both types; for bfloat16 its result is retyped
and the weights are rounded anew from float32 (docs/decisions/0007-typed-graphs.md).
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from pipeline.conversion import explained
from pipeline.graph_types import CONVERSIONS, HALF, element_types

BFLOAT16_OPSET = 22  # the first in which convolutions and pooling take bfloat16
LARGEST_BFLOAT16 = float.fromhex("0x1.fep127")


def to_half(model: ModelProto, precision: str, keep: Collection[str] = ()) -> ModelProto:
    """Return the graph in half precision; its inputs and outputs stay float32.

    Finite weights too large for float16 become its largest value, not infinity.

    Args:
        model: a float32 graph; left as it is.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes that go on computing in float32.

    Raises:
        ArtifactError: the converter cannot type the graph.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    data_type = HALF[precision]
    source = model if precision == "fp16" else _at_opset(model, BFLOAT16_OPSET)
    unsupported = sorted(_kinds_without(source, data_type))
    working = ModelProto()
    working.CopyFrom(source)
    # What is recorded of weights would make the converter take all of them for half precision.
    _forget(working, {tensor.name for tensor in working.graph.initializer})
    with explained(f"the graph cannot be typed in {precision}"):
        typed = convert_float_to_float16(
            working,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *unsupported],
            node_block_list=sorted(keep),
        )
        typed = _sorted(typed)
        _remove_round_trips(typed)
        if precision == "bf16":
            _retype(typed, source)
        onnx.checker.check_model(typed, full_check=True)
    return typed


def float32_operators(model: ModelProto) -> list[tuple[str, str]]:
    """Return (name, kind) of the operators of a half-precision graph that compute in float32."""
    types = element_types(model)
    return [
        (node.name, node.op_type)
        for node in model.graph.node
        if node.op_type not in CONVERSIONS
        and node.input
        and types.get(node.input[0]) == TensorProto.FLOAT
    ]


def _at_opset(model: ModelProto, version: int) -> ModelProto:
    """Return the graph at a newer opset, with the node metadata that onnx's converter drops."""
    converted: ModelProto = onnx.version_converter.convert_version(model, version)
    metadata = {node.name: node.metadata_props for node in model.graph.node}
    for node in converted.graph.node:
        node.metadata_props.extend(metadata.get(node.name, []))
    return converted


def _kinds_without(model: ModelProto, data_type: int) -> set[str]:
    """Return the kinds of operators that by definition compute in float32 but not in `data_type`.

    Their first input and their outputs tell; what else must be float32, such as the scales of
    Resize, the converter knows.
    """
    opset = {item.domain: item.version for item in model.opset_import}
    wanted = f"tensor({tensor_dtype_to_np_dtype(data_type).name})"
    found = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset[node.domain], node.domain)
        formals = [*schema.inputs[:1], *schema.outputs[: len(node.output)]]
        if any("tensor(float)" in f.types and wanted not in f.types for f in formals):
            found.add(node.op_type)
    return found


def _sorted(model: ModelProto) -> ModelProto:
    """Return the model with its nodes in an order in which they can run."""
    ir = onnx_ir.from_proto(model)
    ir.graph.sort()
    ordered: ModelProto = onnx_ir.to_proto(ir)
    return ordered


def _remove_round_trips(model: ModelProto) -> None:
    """Let float32 operators of a float16 graph hand float32 to each other, in place.

    The converter casts to float16 and back between them, also next to the input and the output.
    """
    graph, types = model.graph, element_types(model)
    casts = [node for node in graph.node if node.op_type == "Cast"]
    down = {
        cast.output[0]: cast.input[0]
        for cast in casts
        if types.get(cast.output[0]) == TensorProto.FLOAT16
        and types.get(cast.input[0]) == TensorProto.FLOAT
    }
    up = {cast.output[0]: down[cast.input[0]] for cast in casts if cast.input[0] in down}
    outputs = {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    renamed = {source: end for end, source in up.items() if end in outputs and source in made}
    renamed |= {
        end: renamed.get(source, source) for end, source in up.items() if end not in outputs
    }
    _drop(model, [end for end, source in up.items() if end not in outputs or source in made])
    _rename(model, renamed)
    read = {name for node in graph.node for name in node.input} | outputs
    unread = {
        name: renamed.get(source, source) for name, source in down.items() if name not in read
    }
    _drop(model, unread)
    _rename(model, {s: name for name, s in unread.items() if s in made and s not in outputs})


def _drop(model: ModelProto, names: Collection[str]) -> None:
    """Remove the operators that make these tensors."""
    kept = [node for node in model.graph.node if not set(names) & set(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _rename(model: ModelProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, {old: new}; what was recorded of either is forgotten."""
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    _forget(model, {*names, *names.values()})


def _forget(model: ModelProto, names: Collection[str]) -> None:
    """Remove what is recorded of the types and shapes of these tensors."""
    kept = [value for value in model.graph.value_info if value.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _retype(typed: ModelProto, source: ModelProto) -> None:
    """Make every float16 in a graph bfloat16, in place; weights are those of `source`, rounded."""
    half, new = TensorProto.FLOAT16, TensorProto.BFLOAT16
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in typed.graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(_bfloat16(numpy_helper.to_array(weights[tensor.name]), tensor.name))
    for value in typed.graph.value_info:
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = new
    for node in typed.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = new
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == half:
                values = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(_bfloat16(values, attribute.t.name))


def _bfloat16(values: NDArray[np.float32], name: str) -> TensorProto:
    """Round to bfloat16; finite values stay finite."""
    finite = np.where(np.isinf(values), values, values.clip(-LARGEST_BFLOAT16, LARGEST_BFLOAT16))
    rounded = finite.astype(tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return numpy_helper.from_array(rounded, name)
