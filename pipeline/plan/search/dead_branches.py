"""Find blocks whose residual branch is dead: f(x) = x + c with one constant per channel.

Under a strong penalty branches die rather than learn the identity: in the network that the authors
of LaCoOT (arXiv 2406.08933) ship, MobileNetV2 on CIFAR-10 with λ = 9, the distance of ten blocks is
zero because none of their hidden units is ever on. Such a block is replaced by x + c.

What is observed decides: f(x) − x is the same at all positions of all calibration images, up to
rounding. Other images may still activate the branch; accuracy on validation images decides about
the level, as for any other block (docs/decisions/0013-dead-branches.md).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.hooks import watched
from models.replacement.axes import channel_axes
from models.replacement.modules import ChannelMap

# x + c is rounded once per addition, by half a unit (eps / 2) of the sum at most, and subtracting x
# again rounds by less. Four units allow for a few additions; an active branch is far above.
TOLERANCE = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class DeadBranch:
    """What replaces a block that only adds a constant, and how constant that was."""

    replacement: ChannelMap
    largest_deviation: float  # |f(x) − x − c| over the images, in units of E max(|x|, |f(x)|)


@torch.no_grad()
def dead_branches(
    model: nn.Module, names: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, DeadBranch]:
    """Return those of the named blocks whose branch is dead, in the order of the names.

    Most blocks are ruled out by the first batch; where all are, no other is run.

    Args:
        model: the network, in evaluation mode.
        names: blocks that can be removed, or units.
        batches: calibration images (n, c, h, w) on the model's device.

    Raises:
        BlockError: a block's layers do not show which dimension holds the channels.
    """
    seen: dict[str, _Observed] = {}
    axes: dict[str, int] = {}
    candidates = list(names)
    for images in batches:
        if not candidates:
            break
        axes = axes or channel_axes(model, names, images)
        with _observed(model, {name: axes[name] for name in candidates}, seen):
            model(images)
        candidates = [name for name in candidates if seen[name].fixed]
    return {name: seen[name].as_dead_branch() for name in candidates}


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
        return bool((self.above <= self.below).all())

    def as_dead_branch(self) -> DeadBranch:
        """Return the constants that explain it best, and how far f(x) − x was from them."""
        offset = (self.above + self.below) / 2
        largest = (self.most - offset).maximum(offset - self.least).max().item()
        relative = largest / (self.size / self.count) if self.size else largest
        return DeadBranch(ChannelMap(None, offset.float(), self.axis), relative)


@contextmanager
def _observed(
    model: nn.Module, axes: Mapping[str, int], seen: dict[str, _Observed]
) -> Iterator[None]:
    """Add what each block, by its axis, adds to its input in the passes meanwhile to `seen`."""
    entered: dict[str, Tensor] = {}

    def enter(name: str, x: Tensor) -> None:
        entered[name] = x.clone()  # the block may change it in place

    def leave(name: str, y: Tensor) -> None:
        x = entered.pop(name)
        now = _Observed.of(x, y, axes[name])
        seen[name] = seen[name].and_also(now) if name in seen else now

    with watched(model, list(axes), on_enter=enter, on_leave=leave):
        yield
