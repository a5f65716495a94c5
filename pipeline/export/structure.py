"""What a graph computes, whatever its weights and names: graphs alike in that take as long."""

import hashlib
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto
from onnx.helper import get_attribute_value


def structure(model: ModelProto) -> str:
    """Return 16 hexadecimal digits that two graphs share that differ in values and names alone.

    They have the same operators with the same attributes, wired alike, and constants of the same
    types and shapes.
    """
    graph = model.graph
    numbers: dict[str, int] = {"": -1}  # of tensors, in the order in which nodes name them
    parts: list[Any] = [
        [(one.type.SerializeToString(deterministic=True)) for one in graph.input],
        *(_node(node, numbers) for node in graph.node),
    ]
    constants = {one.name: (one.data_type, *one.dims) for one in graph.initializer}
    parts.append(sorted((numbers[name], of) for name, of in constants.items() if name in numbers))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _node(node: NodeProto, numbers: dict[str, int]) -> Any:
    ends = [numbers.setdefault(name, len(numbers)) for name in (*node.input, *node.output)]
    attributes = sorted((one.name, _value(one)) for one in node.attribute)
    return node.domain, node.op_type, len(node.input), ends, attributes


def _value(attribute: AttributeProto) -> str:
    value = get_attribute_value(attribute)
    return repr((value.data_type, *value.dims) if isinstance(value, TensorProto) else value)
