"""Where the time of an engine goes: its layers' times by block of the network.

An engine's layer computes one ONNX node or several that were fused. The block boundaries recorded
in the ONNX file say which nodes belong to which block, so each layer's time goes to a block, to
what is outside of them, to a row of its own where nodes of several were fused, or, where no node
of the layer is known, to none. Nothing is divided by guess.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto

from pipeline.benchmark.records import LayerKind
from pipeline.engines.backends.interface import LayerTime
from pipeline.export.boundaries import Boundary, read_boundaries

OUTSIDE = "outside"

Blocks = Mapping[str, str]  # of each node, in the graph's order: the block that it belongs to
Shares = dict[tuple[LayerKind, str], float]  # ms of one run by kind and block


def node_to_block(model: ModelProto) -> Blocks:
    """Return the smallest removable block around each node by the boundaries in the file.

    Raises:
        ArtifactError: the file records no block boundaries.
    """
    nodes = model.graph.node
    fed = _after(nodes, [value.name for value in model.graph.input])
    boundaries = [b for b in read_boundaries(model).values() if not b.reason]
    inside = {b.name: _between(nodes, fed, b) for b in boundaries}
    blocks = {node.name: OUTSIDE for node in nodes}
    for name in sorted(inside, key=lambda name: -len(inside[name])):  # inner blocks overwrite
        blocks |= dict.fromkeys(inside[name], name)
    return blocks


def shares(layers: Iterable[LayerTime], blocks: Blocks) -> Shares:
    """Add up the layers' times in ms by block; the parts add up to the layers' sum.

    The kinds are: ``block``, of layers within one removable block; ``outside blocks``, within none,
    such as the stem and the head; ``fused across blocks``, of layers that join nodes of several,
    e.g. ``layer1.0 + outside``; ``unknown``, without a node of the graph, such as reformats.

    Args:
        layers: of one run; where a layer does not name its nodes, they are read from its own name.
        blocks: of the graph that the engine was built from.
    """
    found: Shares = defaultdict(float)
    for layer in layers:
        nodes = [node for node in layer.nodes if node in blocks]
        found[_kind(nodes or nodes_named(layer.name, blocks), blocks)] += layer.ms
    return dict(found)


def _kind(nodes: Sequence[str], blocks: Blocks) -> tuple[LayerKind, str]:
    met = list(dict.fromkeys(blocks[node] for node in nodes))
    if not met:
        return "unknown", ""
    if len(met) > 1:
        return "fused across blocks", " + ".join(met)
    return ("outside blocks", "") if met == [OUTSIDE] else ("block", met[0])


def nodes_named(layer: str, nodes: Iterable[str]) -> list[str]:
    """Return the nodes that a layer's name mentions, in the graph's order.

    TensorRT joins names as ``a + b``, ``a || b`` and ``PWN(PWN(a), b)``, and names of a region
    that its compiler fused only the first and the last node, ``{ForeignNode[a...c]}``: all nodes
    between them count, for they may be part of it.
    """
    nodes = list(nodes)
    found = _words(layer)
    for region in re.findall(r"ForeignNode\[(.*?)\]\}", layer):
        ends = [nodes.index(word) for word in _words(region) if word in nodes]
        if ends:
            found |= set(nodes[min(ends) : max(ends) + 1])
    return [node for node in nodes if node in found]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\s+|,(){}\[\]]+", text.replace("...", " ")))


def _between(nodes: Sequence[NodeProto], fed: set[str], boundary: Boundary) -> set[str]:
    """Return the names of the nodes that make a block's output from its input.

    Constants that they need are among them; what is computed from the network's input on another
    way, such as a shape, is not.
    """
    after = _after(nodes, boundary.inputs)
    needed, before = set(boundary.outputs), set()
    for node in reversed(nodes):  # in a graph they are in the order of computation
        if needed & set(node.output):
            before.add(node.name)
            needed |= set(node.input) - set(boundary.inputs)
    return {name for name in before if name in after or name not in fed}


def _after(nodes: Iterable[NodeProto], tensors: Iterable[str]) -> set[str]:
    """Return the names of the nodes that use tensors, directly or not."""
    found, known = set(), set(tensors)
    for node in nodes:
        if known & set(node.input):
            found.add(node.name)
            known |= set(node.output)
    return found
