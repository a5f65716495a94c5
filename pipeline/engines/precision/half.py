"""Type a float32 ONNX graph in float16 or bfloat16.

Every operator computes in half precision where its definition allows, unless it is kept; casts
stand only where the type changes. Why this is not a library's: docs/decisions/0007-typed-graphs.md.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from pipeline.engines.precision.dtypes import (
    CONVERSIONS,
    HALF,
    element_types,
    explained,
    require_no_inner_graphs,
)

BFLOAT16_OPSET = 22  # the first in which convolutions and pooling take bfloat16
LARGEST: dict[int, float] = {  # finite values
    TensorProto.FLOAT16: 65504.0,
    TensorProto.BFLOAT16: float.fromhex("0x1.fep127"),
}
FLOAT: int = TensorProto.FLOAT


def to_half(model: ModelProto, precision: str, keep: Collection[str] = ()) -> ModelProto:
    """Return the graph in half precision; its inputs and outputs stay float32.

    Finite weights beyond the range of the type become its largest value, not infinity.

    Args:
        model: a float32 graph, its nodes in an order in which they can run; left as it is.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes that go on computing in float32.

    Raises:
        ArtifactError: the graph is not valid, or an operator holds a graph of its own (If, Loop).
    """
    require_no_inner_graphs(model)
    with explained(f"the graph cannot be typed in {precision}"):
        source = model if precision == "fp16" else _at_opset(model, BFLOAT16_OPSET)
        typed = _Typing(source, HALF[precision], keep).result()
        onnx.checker.check_model(typed, full_check=True)
    return typed


def float32_operators(model: ModelProto) -> list[tuple[str, str]]:
    """Return (name, kind) of the operators of a half-precision graph that compute in float32."""
    types = element_types(model)
    return [
        (node.name, node.op_type)
        for node in model.graph.node
        if node.op_type not in CONVERSIONS and node.input and types.get(node.input[0]) == FLOAT
    ]


class _Typing:
    """Rewrites a graph node by node, and knows in which types each tensor exists."""

    def __init__(self, source: ModelProto, half: int, keep: Collection[str]) -> None:
        self._source = source
        self._half = half
        self._keep = set(keep)
        self._opset = {item.domain: item.version for item in source.opset_import}
        self._floats = {name for name, kind in element_types(source).items() if kind == FLOAT}
        self._weights = {t.name: t for t in source.graph.initializer if t.data_type == FLOAT}
        self._outputs = {value.name for value in source.graph.output}
        self._nodes: list[NodeProto] = []
        self._constants = [t for t in source.graph.initializer if t.data_type != FLOAT]
        self._names = {(value.name, FLOAT): value.name for value in source.graph.input}

    def result(self) -> ModelProto:
        """Return the typed graph."""
        for node in self._source.graph.node:
            self._add(node)
        typed = ModelProto()
        typed.CopyFrom(self._source)
        graph = typed.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._constants)
        made = {name: kind for (name, kind), found in self._names.items() if found == name}
        for value in self._source.graph.value_info:
            if value.name not in self._weights:
                graph.value_info.add().CopyFrom(value)
                if value.name in made:
                    graph.value_info[-1].type.tensor_type.elem_type = made[value.name]
        return typed

    def _add(self, node: NodeProto) -> None:
        """Append a node in its type, after the casts of what it reads."""
        reads, makes = self._types_of(node)
        added = NodeProto()
        added.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self._floats:
                added.input[index] = self._in_type(name, reads[index])
        self._nodes.append(added)
        for index, (name, kind) in enumerate(zip(node.output, makes, strict=True)):
            if name not in self._floats:
                continue
            if name in self._outputs and kind != FLOAT:
                added.output[index] = self._names[name, kind] = _renamed(name, kind)
                self._nodes.append(_cast(added.output[index], name, FLOAT))
                self._names[name, FLOAT] = name
            else:
                self._names[name, kind] = name

    def _types_of(self, node: NodeProto) -> tuple[list[int], list[int]]:
        """Return the types in which a node is to read and make its float32 tensors."""
        schema = onnx.defs.get_schema(node.op_type, self._opset[node.domain], node.domain)
        reads = [self._allowed(schema.inputs, index) for index in range(len(node.input))]
        makes = [self._allowed(schema.outputs, index) for index in range(len(node.output))]
        read, made = (
            next((kind for name, kind in zip(*ends, strict=True) if name in self._floats), None)
            for ends in ((node.input, reads), (node.output, makes))
        )
        # What reads no float32 makes it, such as a cast from integers or a constant.
        stays = node.name in self._keep or node.op_type in CONVERSIONS
        if stays or read in (FLOAT, None) or made == FLOAT:
            return [FLOAT] * len(reads), [FLOAT] * len(makes)
        return reads, makes

    def _allowed(self, formals: Sequence[Any], index: int) -> int:
        """Return half precision where an operator's definition allows it, else float32."""
        formal = formals[min(index, len(formals) - 1)]  # the last may be variadic
        name = tensor_dtype_to_np_dtype(self._half).name
        return self._half if f"tensor({name})" in formal.types else FLOAT

    def _in_type(self, name: str, kind: int) -> str:
        """Return the name of a tensor in a type; add the cast or the constant where it is new."""
        if (name, kind) not in self._names:
            weight = self._weights.get(name)
            target = name if weight and kind == FLOAT else _renamed(name, kind)
            if weight is None:
                self._nodes.append(_cast(name, target, kind))
            else:
                self._constants.append(weight if kind == FLOAT else _rounded(weight, kind, target))
            self._names[name, kind] = target
        return self._names[name, kind]


def _renamed(name: str, kind: int) -> str:
    return f"{name}/{tensor_dtype_to_np_dtype(kind).name}"


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast {target}", to=kind)


def _rounded(weight: TensorProto, kind: int, name: str) -> TensorProto:
    """Round to half precision; finite values stay finite."""
    values = numpy_helper.to_array(weight)
    within = np.where(np.isinf(values), values, values.clip(-LARGEST[kind], LARGEST[kind]))
    return numpy_helper.from_array(within.astype(tensor_dtype_to_np_dtype(kind)), name)


def _at_opset(model: ModelProto, version: int) -> ModelProto:
    """Return the graph at a newer opset, with the node metadata that onnx's converter drops."""
    converted: ModelProto = onnx.version_converter.convert_version(model, version)
    metadata = {node.name: node.metadata_props for node in model.graph.node}
    for node in converted.graph.node:
        node.metadata_props.extend(metadata.get(node.name, []))
    return converted
