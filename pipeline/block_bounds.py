"""What the blocks of a network add to what enters them, by bounds that hold for every image.

The network's graph (`torch.export`, functional ATen operators) is run on bounds instead of numbers.
Marks in the graph tell where blocks begin and end: what enters is called x there, and a block that
ends in x + [c, c] adds the constant c whatever the image.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from models.surgery import module_paths
from pipeline.bounds import (
    LARGEST,
    OF_TWO,
    RULES,
    VIEWS,
    Array,
    Bounds,
    add,
    aten,
    exactly,
    held,
    reordered,
    unknown,
)

Ranges = Mapping[str, Bounds]  # of what enters a rectifier on some images, by the node's name
OnEnd = Callable[[str, Tensor], Tensor]  # given a block's name and what enters or leaves it

# What torch.export raises for networks that it cannot trace.
EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


@contextmanager
def block_ends(
    model: nn.Module, names: Sequence[str], enter: OnEnd, leave: OnEnd
) -> Iterator[None]:
    """Let what enters and what leaves each block pass through these functions."""
    handles = []
    for name in names:
        first, *_ = paths = module_paths(name)

        def before(_: nn.Module, args: Any, name: str = name) -> Any:
            return enter(name, args[0]), *args[1:]

        def after(_: nn.Module, __: Any, output: Tensor, name: str = name) -> Any:
            return leave(name, output)

        handles.append(model.get_submodule(first).register_forward_pre_hook(before))
        handles.append(model.get_submodule(paths[-1]).register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.library.custom_op("shoal::block_end", mutates_args=())
def _mark(x: Tensor, block: str, leaves: bool) -> Tensor:
    """Pass on what enters or leaves a block, as a node of the graph that tells so."""
    return x.clone()


@_mark.register_fake
def _like(x: Tensor, block: str, leaves: bool) -> Tensor:
    return torch.empty_like(x)


def _begin(name: str, x: Tensor) -> Tensor:
    marked: Tensor = _mark(x, name, False)
    return marked


def _end(name: str, y: Tensor) -> Tensor:
    marked: Tensor = _mark(y, name, True)
    return marked


MARK = torch.ops.shoal.block_end.default


def marked_graph(model: nn.Module, names: Sequence[str], images: Tensor) -> fx.GraphModule:
    """Return the network's graph for any number of images, with the blocks' ends marked.

    Args:
        model: in evaluation mode, on the CPU.
        names: the blocks, or units.
        images: (n, c, h, w) of the size to trace for.

    Raises:
        EXPORT_ERRORS: the network cannot be traced.
    """
    example = torch.cat([images, images])[:2]  # a batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(), block_ends(model, names, _begin, _end):
        warnings.simplefilter("ignore")  # the exporter's own deprecations; failures still raise
        program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        graph: fx.GraphModule = program.run_decompositions({}).module(check_guards=False)
        return graph


def constant_offsets(graph: fx.GraphModule, ranges: Ranges) -> dict[str, Array]:
    """Return what blocks add to what enters them, where that is the same for all images.

    Args:
        graph: of `marked_graph`.
        ranges: what else is known of what enters rectifiers; the result holds where that does.

    Returns:
        By the block's name; of its output's rank, one where it is alike along a dimension.
    """
    bounding = _Bounding(graph, ranges)
    bounding.run(torch.zeros(()))
    return bounding.offsets


def observed_ranges(graph: fx.GraphModule, images: Sequence[Tensor]) -> dict[str, Bounds]:
    """Return what is known of rectifiers' units that were never on, or always, on these images."""
    watching = _Watching(graph)
    for batch in images:
        watching.run(batch)
    found = {}
    for node in graph.graph.nodes:
        ends = _rectifier(node)
        if ends is not None:
            low, high = ends
            least, most = watching.least[node.name].double(), watching.most[node.name].double()
            found[node.name] = Bounds(
                torch.where(least >= low, low, -LARGEST),
                torch.where(most <= low, low, torch.where(most <= high, high, LARGEST)),
            )
    return found


def _rectifier(node: fx.Node) -> tuple[float, float] | None:
    """Return the two values between which the node holds its input; none if it does not."""
    if node.target is aten.relu.default:
        return 0.0, math.inf
    if node.target is aten.hardtanh.default and not node.kwargs:
        given: dict[int, Any] = dict(enumerate(node.args))
        return float(given.get(1, -1.0)), float(given.get(2, 1.0))
    return None


class _Watching(fx.Interpreter):
    """Runs a graph and keeps, per rectifier and channel, the range of what entered it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.least: dict[str, Tensor] = {}
        self.most: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if _rectifier(n):
            x: Tensor = self.env[n.args[0]]  # type: ignore[index]
            axis = 1 if x.ndim == 4 else x.ndim - 1
            others = [dim for dim in range(x.ndim) if dim != axis]
            least, most = x.amin(others, keepdim=True), x.amax(others, keepdim=True)
            self.least[n.name] = least.minimum(self.least.get(n.name, least))
            self.most[n.name] = most.maximum(self.most.get(n.name, most))
        return super().run_node(n)


class _Bounding(fx.Interpreter):
    """Runs a graph on bounds; `offsets` has what blocks only add."""

    def __init__(self, graph: fx.GraphModule, ranges: Ranges) -> None:
        super().__init__(graph)
        self.ranges = ranges
        self.offsets: dict[str, Array] = {}
        self._entered: dict[str, Bounds] = {}
        self._sizes: dict[str, Any] = {}
        self._node: fx.Node

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Bounds:
        """Know nothing of the images."""
        return unknown()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; its bounds get the rank of the value that they are of."""
        self._node = n
        result, value = super().run_node(n), n.meta.get("val")
        if not isinstance(result, Bounds) or not isinstance(value, Tensor):
            return result
        if result.block and value.numel() != self._sizes[result.block]:  # spread over more values
            result = result.absolute()
        return result.of_rank(value.ndim)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Bound a result by the operator's rule; compute what does not depend on the images."""
        if not any(isinstance(leaf, Bounds) for leaf in pytree.tree_leaves((args, kwargs))):
            return super().call_function(target, args, kwargs)
        first, *others = args
        plain = not kwargs or target is aten.clone.default
        of_first = isinstance(first, Bounds | tuple) and not any(
            isinstance(other, Bounds) for other in others
        )
        if not plain or not (of_first or target in OF_TWO):
            return unknown()
        if target is MARK:
            return self._pass(*args)
        if ends := _rectifier(self._node):
            return held(first, *ends, self.ranges.get(self._node.name))
        if target in VIEWS:
            return reordered(first, self._node.meta["val"].shape)
        return RULES[target](*args) if target in RULES else unknown()

    def _pass(self, x: Bounds, block: str, leaves: bool) -> Bounds:
        """Call what enters a block x; at its end note what was added to it, if that is fixed."""
        if not leaves:
            self._entered[block] = x
            self._sizes[block] = self._node.meta["val"].numel()
            nothing = exactly(0.0)
            return Bounds(nothing.lower, nothing.upper, block, x.absolute())
        if x.block != block:
            return x
        if x.fixed:
            self.offsets[block] = x.lower
        return add(self._entered[block], Bounds(x.lower, x.upper))
