"""Find blocks whose residual branch is dead: f(x) = x + c with one constant per channel.

Under a strong penalty branches die rather than learn the identity: in the network that the authors
of LaCoOT (arXiv 2406.08933) ship, MobileNetV2 on CIFAR-10 with λ = 9, the distance of ten blocks is
zero because no hidden unit of theirs is ever on. Such a block can go for good: c stays.

Three grades, from what was seen to what must be:

- ``constant``: f(x) − x is the same at all positions of all calibration images, up to rounding.
- ``exact``: that follows from the weights, with c, once the rectifiers' units that are never on for
  a calibration image are taken to be off, and those that always are to be on.
- ``proven``: it follows from the weights alone, for every image (`pipeline.block_bounds`).
"""

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.replacements import ChannelMap, channel_axis
from models.surgery import module_paths
from pipeline.block_bounds import (
    EXPORT_ERRORS,
    block_ends,
    constant_offsets,
    marked_graph,
    observed_ranges,
)

Grade = Literal["constant", "exact", "proven"]

# x + c is rounded once per addition, by half a unit (eps / 2) of the sum at most, and taking x off
# again rounds by less. Four units allow for a few additions; a branch that lives is far above.
TOLERANCE = 4 * torch.finfo(torch.float32).eps


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
            with block_ends(model, left, enter, leave):
                model(batch)
        left = [name for name in left if found[name].fixed]
    return {name: found[name] for name in left}


def _derived(
    model: nn.Module, names: Sequence[str], images: Sequence[Tensor]
) -> dict[Grade, dict[str, Tensor]]:
    """Return what the blocks add by their weights, if that is constant, from weak to strong."""
    try:
        graph = marked_graph(model, names, images[0])
    except EXPORT_ERRORS as e:
        reason = str(e).strip().partition("\n")[0]
        print(f"warning: dead branches are not proven, no graph: {reason}", file=sys.stderr)
        return {}
    return {
        "exact": constant_offsets(graph, observed_ranges(graph, images)),
        "proven": constant_offsets(graph, {}),
    }
