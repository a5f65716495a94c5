"""Find blocks whose residual branch is dead: f(x) = x + c with one constant per channel.

Under a strong penalty branches die rather than learn the identity: in the network that the authors
of LaCoOT (arXiv 2406.08933) ship, MobileNetV2 on CIFAR-10 with λ = 9, the distance of ten blocks is
zero because no hidden unit of theirs is ever on. Such a block can go for good: c stays.

Three grades, from what was seen to what must be:

- ``constant``: f(x) − x is the same at all positions of all calibration images, up to rounding.
- ``exact``: that follows from the weights, with c, once the rectifiers' units that are never on for
  a calibration image are taken to be off, and those that always are to be on.
- ``proven``: it follows from the weights alone, for every image (`pipeline.bounds`).
"""

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor, fx, nn

from models.replacements import ChannelMap, channel_axis
from models.surgery import module_paths
from pipeline.bounds import LARGEST, Bounding, Bounds, Ranges, mark, rectifier

Grade = Literal["constant", "exact", "proven"]

# x + c is rounded once per addition, by half a unit (eps / 2) of the sum at most, and taking x off
# again rounds by less. Four units allow for a few additions; a branch that lives is far above.
TOLERANCE = 4 * torch.finfo(torch.float32).eps

# What torch.export raises for networks that it cannot trace.
EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True)
class DeadBranch:
    """A block that only adds a constant, and what that rests on."""

    how: Grade
    stand_in: ChannelMap
    largest_deviation: (
        float  # |f(x) − x − c| over the calibration set, in units of E max(|x|, |f(x)|)
    )


@torch.no_grad()
def dead_branches(
    model: nn.Module, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, DeadBranch]:
    """Return those of the named blocks whose branch is dead, in the order of the names.

    Args:
        model: the network, in evaluation mode.
        names: blocks that can be removed, or units.
        batches: calibration images (n, c, h, w) on the model's device. Where there are dead
            branches they are run through the network's graph again, on the CPU.
    """
    images = list(batches)
    seen = _observed(model, names, images)
    if not seen:
        return {}
    on_cpu = copy.deepcopy(model).cpu()
    by_grade = _derived(on_cpu, list(seen), [batch.cpu() for batch in images])
    return {name: _graded(name, observed, by_grade) for name, observed in seen.items()}


def _graded(
    name: str, observed: "_Observed", by_grade: Mapping[Grade, Mapping[str, Tensor]]
) -> DeadBranch:
    """Grade a branch by the strongest evidence that agrees with what was observed."""
    how: Grade = "constant"
    offset = observed.offset
    for grade, offsets in by_grade.items():
        if name in offsets:
            derived = _of_channels(offsets[name], observed.axis, len(offset)).to(offset.device)
            if observed.agrees(derived):
                how, offset = grade, derived
    deviation = observed.deviation(offset)
    return DeadBranch(how, ChannelMap(None, offset.float(), observed.axis), deviation)


def _of_channels(offset: Tensor, axis: int, channels: int) -> Tensor:
    """Return the values along the channels; not a number where they differ along something else."""
    rows = offset.movedim(axis, -1).flatten(0, -2)
    alike = torch.where((rows == rows[0]).all(dim=0), rows[0], torch.nan)
    return alike.expand(channels)


@dataclass(frozen=True)
class _Observed:
    """What f(x) − x was on the images seen so far, per channel."""

    axis: int
    least: Float64[Tensor, " c"]
    most: Float64[Tensor, " c"]
    above: Float64[Tensor, " c"]  # what a constant must be at least, and at most, up to rounding
    below: Float64[Tensor, " c"]
    size: float  # the sum of max(|x|, |f(x)|), and of how many values
    count: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor, axis: int) -> "_Observed":
        """Observe one batch of a block's inputs and outputs."""
        x, y = (t.movedim(axis, -1).flatten(0, -2).float() for t in (x, y))
        added, size = y - x, x.abs().maximum(y.abs())
        # Around zero, features of the usual size were rounded before they met.
        allowed = TOLERANCE * (size + size.mean())
        return cls(
            axis,
            least=added.amin(dim=0).double(),
            most=added.amax(dim=0).double(),
            above=(added - allowed).amax(dim=0).double(),
            below=(added + allowed).amin(dim=0).double(),
            size=size.double().sum().item(),
            count=size.numel(),
        )

    def and_also(self, other: "_Observed") -> "_Observed":
        """Return both observations as one."""
        return _Observed(
            self.axis,
            least=self.least.minimum(other.least),
            most=self.most.maximum(other.most),
            above=self.above.maximum(other.above),
            below=self.below.minimum(other.below),
            size=self.size + other.size,
            count=self.count + other.count,
        )

    @property
    def fixed(self) -> bool:
        """One constant per channel explains all that was seen."""
        return self.agrees(self.offset)

    @property
    def offset(self) -> Float64[Tensor, " c"]:
        """The constants that explain it best."""
        return (self.above + self.below) / 2

    def agrees(self, offset: Tensor) -> bool:
        """These constants explain all that was seen."""
        return bool(((self.above <= offset) & (offset <= self.below)).all())

    def deviation(self, offset: Tensor) -> float:
        """Return the largest |f(x) − x − c|, as a share of the mean feature."""
        largest = (self.most - offset).maximum(offset - self.least).max().item()
        return largest / (self.size / self.count) if self.size else largest


def _observed(
    model: nn.Module, names: Sequence[str], images: Sequence[Tensor]
) -> dict[str, _Observed]:
    """Run the network and observe what each block adds, as long as it may be a constant.

    Returns:
        What was seen of those for which it is one.
    """
    found: dict[str, _Observed] = {}
    entered: dict[str, Tensor] = {}

    def enter(name: str, x: Tensor) -> Tensor:
        entered[name] = x.clone()  # the block may change it in place
        return x

    def leave(name: str, y: Tensor) -> Tensor:
        x = entered.pop(name)
        axis = channel_axis(model.get_submodule(module_paths(name)[0]), x.shape)
        now = _Observed.of(x, y, axis)
        found[name] = found[name].and_also(now) if name in found else now
        return y

    left = list(names)
    for batch in images:
        if left:
            with _ends(model, left, enter, leave):
                model(batch)
        left = [name for name in left if found[name].fixed]
    return {name: found[name] for name in left}


@contextmanager
def _ends(model: nn.Module, names: Sequence[str], enter: Any, leave: Any) -> Iterator[None]:
    """Let what enters and what leaves each block pass through functions of name and tensor."""
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


def _derived(
    model: nn.Module, names: Sequence[str], images: Sequence[Tensor]
) -> dict[Grade, dict[str, Tensor]]:
    """Return what the blocks add by their weights, if that is constant, from weak to strong."""
    try:
        graph = _traced(model, names, images[0])
    except EXPORT_ERRORS as e:
        reason = str(e).strip().partition("\n")[0]
        print(f"warning: dead branches are not proven, no graph: {reason}", file=sys.stderr)
        return {}
    return {
        "exact": _offsets(graph, _ranges(graph, images)),
        "proven": _offsets(graph, {}),
    }


def _traced(model: nn.Module, names: Sequence[str], images: Tensor) -> fx.GraphModule:
    """Return the network's graph of functional ATen operators, with the blocks' ends marked."""
    example = torch.cat([images, images])[:2]  # a batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(), _ends(model, names, _begin, _end):
        warnings.simplefilter("ignore")  # the exporter's own deprecations; failures still raise
        program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
        graph: fx.GraphModule = program.run_decompositions({}).module(check_guards=False)
        return graph


def _begin(name: str, x: Tensor) -> Tensor:
    marked: Tensor = mark(x, name, False)
    return marked


def _end(name: str, y: Tensor) -> Tensor:
    marked: Tensor = mark(y, name, True)
    return marked


def _offsets(graph: fx.GraphModule, ranges: Ranges) -> dict[str, Tensor]:
    bounding = Bounding(graph, ranges)
    bounding.run(torch.zeros(()))
    return bounding.offsets


class _Watching(fx.Interpreter):
    """Runs a graph and keeps, per rectifier and channel, the range of what entered it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.least: dict[str, Tensor] = {}
        self.most: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if rectifier(n):
            x: Tensor = self.env[n.args[0]]  # type: ignore[index]
            axis = 1 if x.ndim == 4 else x.ndim - 1
            others = [dim for dim in range(x.ndim) if dim != axis]
            least, most = x.amin(others, keepdim=True), x.amax(others, keepdim=True)
            self.least[n.name] = least.minimum(self.least.get(n.name, least))
            self.most[n.name] = most.maximum(self.most.get(n.name, most))
        return super().run_node(n)


def _ranges(graph: fx.GraphModule, images: Sequence[Tensor]) -> dict[str, Bounds]:
    """Return what is known of rectifiers' units that were never on, or always, on these images."""
    watching = _Watching(graph)
    for batch in images:
        watching.run(batch)
    found = {}
    for node in graph.graph.nodes:
        if node.name in watching.least:
            low, high = rectifier(node) or (0.0, 0.0)
            least, most = watching.least[node.name].double(), watching.most[node.name].double()
            found[node.name] = Bounds(
                torch.where(least >= low, low, -LARGEST),
                torch.where(most <= low, low, torch.where(most <= high, high, LARGEST)),
            )
    return found
