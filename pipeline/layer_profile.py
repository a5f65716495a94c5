"""Where the time of an engine goes: its layers' times by block of the network.

An engine's layer computes one ONNX node or several that were fused. The block boundaries recorded
in the ONNX file say which nodes belong to which block, so each layer's time goes to a block, to
what is outside of them, to a row of its own where nodes of several were fused, or, where no node
of the layer is known, to none. Nothing is divided by guess.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from onnx import ModelProto, NodeProto

from pipeline.engines.interface import LayerTime
from pipeline.onnx_graph import Boundary, read_boundaries

OUTSIDE = "outside"


@dataclass(frozen=True)
class Shares:
    """The time of one run by block, in ms; the parts add up to the layers' sum.

    Attributes:
        blocks: of layers within one removable block.
        outside_blocks: of layers within none, such as the stem and the head.
        fused_across_blocks: of layers that join nodes of several, by the blocks' names, e.g.
            ``layer1.0 + layer1.1`` or ``layer1.0 + outside``.
        not_attributed: of layers without a node of the graph, such as copies and reformats.
    """

    blocks: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    outside_blocks: float = 0.0
    fused_across_blocks: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    not_attributed: float = 0.0


@dataclass(frozen=True)
class Homes:
    """The nodes of a graph in order, and the block that each belongs to.

    Attributes:
        order: place of each node's name.
        block: the smallest removable block around a node; none for nodes outside.
    """

    order: Mapping[str, int]
    block: Mapping[str, str]


def homes(model: ModelProto) -> Homes:
    """Find the nodes of every removable block from the boundaries recorded in the file.

    Raises:
        ArtifactError: the file records no block boundaries.
    """
    block: dict[str, str] = {}
    graph = _Graph(model)
    inside = {b.name: graph.between(b) for b in read_boundaries(model).values() if not b.reason}
    for name in sorted(inside, key=lambda name: -len(inside[name])):  # inner blocks overwrite
        block |= dict.fromkeys(inside[name], name)
    return Homes({node.name: place for place, node in enumerate(model.graph.node)}, block)


def shares(layers: Iterable[LayerTime], where: Homes) -> Shares:
    """Add up the layers' times by block.

    Args:
        layers: of one run; where a layer does not tell its nodes, they are read from its name.
        where: of the graph that the engine was built from.
    """
    blocks: dict[str, float] = defaultdict(float)
    fused: dict[str, float] = defaultdict(float)
    outside = unknown = 0.0
    for layer in layers:
        nodes = [node for node in layer.nodes if node in where.order] or nodes_named(
            layer.name, where.order
        )
        found = list(dict.fromkeys(where.block.get(node, OUTSIDE) for node in nodes))
        if not found:
            unknown += layer.ms
        elif len(found) > 1:
            fused[" + ".join(found)] += layer.ms
        elif found == [OUTSIDE]:
            outside += layer.ms
        else:
            blocks[found[0]] += layer.ms
    return Shares(dict(blocks), outside, dict(fused), unknown)


def typical(runs: Sequence[Sequence[LayerTime]]) -> list[LayerTime]:
    """Return each layer with its median time over several runs of one engine."""
    return [
        replace(times[0], ms=median(time.ms for time in times)) for times in zip(*runs, strict=True)
    ]


def nodes_named(layer: str, order: Mapping[str, int]) -> list[str]:
    """Return the nodes that a layer's name tells of, in the graph's order.

    TensorRT joins names as ``a + b``, ``a || b`` and ``PWN(PWN(a), b)``, and names of a region
    that its compiler fused only the first and the last node, ``{ForeignNode[a...c]}``: all nodes
    between them count, for they may be part of it.
    """
    found: set[str] = set()
    by_place = sorted(order, key=order.__getitem__)
    for region in re.findall(r"ForeignNode\[(.*?)\]\}", layer):
        ends = [order[node] for node in _mentioned(region.replace("...", " "), order)]
        if ends:
            found |= set(by_place[min(ends) : max(ends) + 1])
    found |= set(_mentioned(layer.replace("...", " "), order))
    return sorted(found, key=order.__getitem__)


def _mentioned(text: str, order: Mapping[str, int]) -> list[str]:
    return [word for word in re.findall(r"[^\s+|,(){}\[\]]+", text) if word in order]


class _Graph:
    """The nodes of a graph and how tensors connect them."""

    def __init__(self, model: ModelProto) -> None:
        self.producer = {out: node for node in model.graph.node for out in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for tensor in node.input:
                self.consumers[tensor].append(node)
        self.fed = self._after([value.name for value in model.graph.input])

    def between(self, boundary: Boundary) -> set[str]:
        """Return the names of the nodes that make a block's output from its input.

        Constants that they need are among them; what is computed from the network's input on
        another way, such as a shape, is not.
        """
        after = self._after(boundary.inputs)
        before = self._before(boundary.outputs, set(boundary.inputs))
        return {name for name in before if name in after or name not in self.fed}

    def _after(self, tensors: Sequence[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(tensors)
        while waiting:
            for node in self.consumers[waiting.pop()]:
                if node.name not in found:
                    found.add(node.name)
                    waiting += node.output
        return found

    def _before(self, tensors: Sequence[str], stop: set[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(tensors)
        while waiting:
            tensor = waiting.pop()
            node = self.producer.get(tensor)
            if tensor not in stop and node is not None and node.name not in found:
                found.add(node.name)
                waiting += node.input
        return found
