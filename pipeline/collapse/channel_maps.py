"""Put channel maps into an ONNX graph in as few operators as they need.

A map is one placeholder in the graph first. Where it alone reads another map or a convolution, the
two are fused, which is free; the others are written out in standard operators.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from torch import Tensor

from models.replacement.modules import ChannelMap

PLACEHOLDER = "shoal::ChannelMap"
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Map:
    """y = W x + b along the channels: W a matrix (c, c), factors (c,), or None for the identity."""

    weight: Array | None
    bias: Array
    axis: int  # of the channels: 1, or the last

    def after(self, first: "Map") -> "Map":
        """Return this map applied to the result of another."""
        return Map(_product(self.weight, first.weight), self.of_vector(first.bias), self.axis)

    def of_vector(self, x: Array) -> Array:
        """Return W x + b of one position (c,)."""
        if self.weight is None:
            return x + self.bias
        return (self.weight * x if self.weight.ndim == 1 else self.weight @ x) + self.bias


Maps = Mapping[str, Map]  # by the name of the block that each replaces


def as_maps(replacements: Mapping[str, ChannelMap]) -> Maps:
    """Return the replacements of a PyTorch network's blocks in the form that graphs take."""

    def array(tensor: Tensor) -> Array:
        values: Array = tensor.detach().cpu().numpy()
        return values

    return {
        name: Map(None if own.weight is None else array(own.weight), array(own.bias), own.axis)
        for name, own in replacements.items()
    }


def place(graph: gs.Graph, name: str, source: gs.Tensor, channel_map: Map) -> gs.Variable:
    """Add a map of the tensor `source` to the graph; return the tensor it makes."""
    made = gs.Variable(f"{name}.replaced", dtype=source.dtype, shape=source.shape)
    attributes = {"map": channel_map}
    graph.nodes.append(gs.Node(PLACEHOLDER, f"{name}.map", attributes, [source], [made]))
    return made


def fuse(graph: gs.Graph, ends: Collection[str]) -> dict[str, str]:
    """Fuse the placed maps with what they read where that is free; write out the others.

    Args:
        graph: with placed maps.
        ends: tensors in which blocks end. No map is fused with what makes them: it has to remain
            when such a block is removed later.

    Returns:
        {tensor of a fused map: the tensor that holds its values now}.
    """
    graph.toposort()
    moved: dict[str, str] = {}
    for node in [node for node in graph.nodes if node.op == PLACEHOLDER]:
        (source,), (made,) = node.inputs, node.outputs
        alone = len(source.outputs) == 1 and not any(source is out for out in graph.outputs)
        free = alone and source.name not in ends
        if source.inputs and free and _fused(source.inputs[0], node):
            for reader in list(made.outputs):
                reader.inputs = [source if tensor is made else tensor for tensor in reader.inputs]
            moved[made.name] = source.name
            graph.nodes.remove(node)
            node.inputs.clear()
    for node in [node for node in graph.nodes if node.op == PLACEHOLDER]:
        _write_out(graph, node)
    graph.cleanup().toposort()
    return moved


def _fused(producer: gs.Node, node: gs.Node) -> bool:
    """Let the producer compute the map as well; say whether it can."""
    second: Map = node.attrs["map"]
    if producer.op == PLACEHOLDER:
        producer.attrs["map"] = second.after(producer.attrs["map"])
        return True
    if producer.op != "Conv" or second.axis != 1:
        return False
    if not all(isinstance(tensor, gs.Constant) for tensor in producer.inputs[1:]):
        return False
    mixes = second.weight is not None and second.weight.ndim == 2
    if mixes and producer.attrs.get("group", 1) != 1:
        return False
    kernel = producer.inputs[1].values
    bias = producer.inputs[2].values if len(producer.inputs) > 2 else np.zeros_like(second.bias)
    kernel_matrix = kernel.reshape(len(kernel), -1)  # (out, in · height · width)
    if second.weight is not None:
        scale = second.weight if mixes else np.diag(second.weight)
        kernel_matrix = scale @ kernel_matrix
    name = node.name
    producer.inputs = [
        producer.inputs[0],
        gs.Constant(f"{name}.kernel", kernel_matrix.reshape(kernel.shape).astype(kernel.dtype)),
        gs.Constant(f"{name}.bias", second.of_vector(bias).astype(kernel.dtype)),
    ]
    return True


def _write_out(graph: gs.Graph, node: gs.Node) -> None:
    """Replace a placeholder by Add, Mul and Add, a 1×1 convolution, or MatMul and Add."""
    channel_map: Map = node.attrs["map"]
    (source,), (made,), name = node.inputs, node.outputs, node.name
    ndim = len(source.shape)
    node.inputs.clear()
    node.outputs.clear()
    weight, axis = channel_map.weight, channel_map.axis
    if weight is not None and weight.ndim == 2 and axis == 1 and ndim > 2:
        kernel = gs.Constant(f"{name}.kernel", weight.reshape(*weight.shape, *[1] * (ndim - 2)))
        inputs = [source, kernel, gs.Constant(f"{name}.bias", channel_map.bias)]
        graph.nodes.append(gs.Node("Conv", f"{name}.conv", inputs=inputs, outputs=[made]))
        return
    along = [1] * ndim
    along[axis] = -1
    bias = gs.Constant(f"{name}.bias", channel_map.bias.reshape(along))
    if weight is None:
        graph.nodes.append(gs.Node("Add", f"{name}.add", inputs=[source, bias], outputs=[made]))
        return
    op, values = ("MatMul", weight.T) if weight.ndim == 2 else ("Mul", weight.reshape(along))
    factor = gs.Constant(f"{name}.factor", np.ascontiguousarray(values))
    scaled = gs.Variable(f"{name}.scaled", dtype=source.dtype, shape=source.shape)
    graph.nodes += [
        gs.Node(op, f"{name}.scale", inputs=[source, factor], outputs=[scaled]),
        gs.Node("Add", f"{name}.add", inputs=[scaled, bias], outputs=[made]),
    ]


def _product(second: Array | None, first: Array | None) -> Array | None:
    """Return the weight of two maps, one after the other."""
    if second is None or first is None:
        return first if second is None else second
    if second.ndim == first.ndim == 1:
        return second * first
    left = second if second.ndim == 2 else np.diag(second)
    right = first if first.ndim == 2 else np.diag(first)
    return left @ right
