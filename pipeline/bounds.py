"""Interval arithmetic on the operators of a network's graph.

Within a block a value may also be known as x + [lower, upper], x being what enters the block.
Operators that no rule describes give values of which nothing is known, so what is not understood
proves nothing.

Bounds are of sums in any order, and a little wider than those of real numbers: by what float32 may
round. Values beyond float32 are not considered.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

LARGEST = torch.finfo(torch.float32).max
ROUNDING = torch.finfo(torch.float32).eps  # of one float32 operation, twice what it can be

Array = Float64[
    Tensor, "..."
]  # of the value's rank, one where the bound is alike along a dimension


@dataclass(frozen=True)
class Bounds:
    """What is known of a value: lower ≤ value ≤ upper, or lower ≤ value − x ≤ upper."""

    lower: Array
    upper: Array
    block: str = ""  # whose input x is; its elements in the same order
    entry: "Bounds | None" = None  # of x itself

    @property
    def fixed(self) -> bool:
        """The value, or its difference from x, is the same for all images."""
        return bool((self.lower == self.upper).all())

    def absolute(self) -> "Bounds":
        """Return the bounds of the value itself."""
        return self if self.entry is None else add(replace(self, entry=None), self.entry)

    def of_rank(self, rank: int) -> "Bounds":
        """Return the same with dimensions of one in front, up to `rank` of them."""
        lower, upper = (t[(None,) * (rank - t.ndim)] for t in (self.lower, self.upper))
        return replace(self, lower=lower, upper=upper)


def _bounds(lower: Tensor, upper: Tensor, slack: tuple[Tensor, Tensor]) -> Bounds:
    """Return bounds widened by what is rounded; what is fixed stays so."""
    fixed = lower == upper
    lower = torch.where(fixed, lower, lower - ROUNDING * slack[0]).clamp(-LARGEST, LARGEST)
    upper = torch.where(fixed, upper, upper + ROUNDING * slack[1]).clamp(-LARGEST, LARGEST)
    return Bounds(lower, upper)


def exactly(value: Tensor | float) -> Bounds:
    """Return the bounds of a value that does not depend on the images."""
    array = torch.as_tensor(value, dtype=torch.float64).clamp(-LARGEST, LARGEST)
    return Bounds(array, array)


def unknown() -> Bounds:
    """Return the bounds of a value of which nothing is known but that it is finite."""
    return Bounds(exactly(-LARGEST).lower, exactly(LARGEST).upper)


def add(a: Any, b: Any) -> Bounds:
    """Bound a + b; x + [..] stays that."""
    a, b = (t if isinstance(t, Bounds) else exactly(t) for t in (a, b))
    if a.entry is None:
        a, b = b, a
    b = b.absolute()
    slack = (a.lower.abs() + b.lower.abs(), a.upper.abs() + b.upper.abs())
    total = _bounds(a.lower + b.lower, a.upper + b.upper, slack)
    return replace(total, block=a.block, entry=a.entry)


def multiply(a: Any, b: Any) -> Bounds:
    """Bound a · b."""
    a, b = (t.absolute() if isinstance(t, Bounds) else exactly(t) for t in (a, b))
    ends = [p * q for p in (a.lower, a.upper) for q in (b.lower, b.upper)]
    lower, upper = reduce(torch.minimum, ends), reduce(torch.maximum, ends)
    return _bounds(lower, upper, (lower.abs(), upper.abs()))


def batch_norm(
    x: Bounds, weight: Any, bias: Any, mean: Tensor, variance: Tensor, _: float, epsilon: float
) -> tuple[Bounds]:
    """Bound a batch norm with fixed statistics: a map of the channels, which come second."""
    along = (1, -1, *[1] * (x.lower.ndim - 2))
    scale = (variance.double() + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    shifted = add(multiply(x, scale.reshape(along)), (-mean * scale).reshape(along))
    return (shifted if bias is None else add(shifted, bias.reshape(along)),)


def convolution(x: Bounds, kernel: Tensor, bias: Tensor | None = None, *how: Any) -> Bounds:
    """Bound a convolution of images (n, c, h, w) by the bounds of its input's channels.

    Padding puts zeros among the input's values, so a constant input alone gives no constant.
    """
    if x.lower.ndim != 4:
        return unknown()
    given = dict(enumerate(how))  # stride, padding, dilation, groups; as many as are not usual
    padding, groups = given.get(1, 0), given.get(3, 1)
    x = per_channel(x)
    if padding not in (0, [0], [0, 0], "valid"):
        x = _or_zero(x)
    channels = kernel.shape[1] * groups
    lower, upper = (t.expand(1, channels, 1, 1) for t in (x.lower, x.upper))

    def product(weight: Tensor, t: Tensor) -> Tensor:
        return functional.conv2d(t, weight.sum(dim=(2, 3), keepdim=True), groups=groups)

    along = None if bias is None else bias.reshape(1, -1, 1, 1)
    return _weighted(Bounds(lower, upper), kernel, along, product)


def linear(x: Bounds, weight: Tensor, bias: Tensor | None = None) -> Bounds:
    """Bound W x + b along the last dimension."""
    x = x.absolute()
    lower, upper = (t.expand(*t.shape[:-1], weight.shape[1]) for t in (x.lower, x.upper))
    return _weighted(Bounds(lower, upper), weight, bias, lambda w, t: functional.linear(t, w))


def _weighted(
    x: Bounds, weight: Tensor, bias: Tensor | None, product: Callable[[Tensor, Tensor], Tensor]
) -> Bounds:
    """Bound Σ w x + b: positive weights meet one bound of x, negative ones the other."""
    up, down = weight.double().clamp(min=0), weight.double().clamp(max=0)
    shift = torch.zeros((), dtype=torch.float64) if bias is None else bias.double()
    lower = product(up, x.lower) + product(down, x.upper) + shift
    upper = product(up, x.upper) + product(down, x.lower) + shift
    terms = weight[0].numel() + 1
    slack = (
        terms * (product(up, x.lower.abs()) - product(down, x.upper.abs()) + shift.abs()),
        terms * (product(up, x.upper.abs()) - product(down, x.lower.abs()) + shift.abs()),
    )
    return _bounds(lower, upper, slack)


def per_channel(x: Bounds, *_: object) -> Bounds:
    """Return the bounds of each channel of images: those of what is picked or averaged, too."""
    x = x.absolute()
    if x.lower.ndim != 4:
        return unknown()
    others = (0, 2, 3)
    return Bounds(x.lower.amin(others, keepdim=True), x.upper.amax(others, keepdim=True))


def overall(x: Bounds, *_: object) -> Bounds:
    """Return the bounds of all values together: those of whatever picks, moves or averages them."""
    x = x.absolute()
    return Bounds(x.lower.min(), x.upper.max())


def padded(x: Bounds, _: object, mode: str = "constant", value: float | None = None) -> Bounds:
    """Bound an input surrounded by zeros."""
    return _or_zero(overall(x)) if mode == "constant" and not value else unknown()


def _or_zero(x: Bounds) -> Bounds:
    return Bounds(x.lower.clamp(max=0), x.upper.clamp(min=0))


def held(x: Bounds, low: float, high: float, seen: Bounds | None = None) -> Bounds:
    """Bound min(max(x, low), high), of which x is known to be within the bounds `seen`, too."""
    own = x.absolute()
    if seen is not None:
        lower = own.lower.maximum(seen.lower)
        own = Bounds(lower, own.upper.minimum(seen.upper).maximum(lower))
    if own.lower.min() >= low and own.upper.max() <= high:
        return x
    return Bounds(own.lower.clamp(low, high), own.upper.clamp(low, high))


def reordered(x: Bounds, shape: torch.Size) -> Bounds:
    """Return the bounds of the same values in the same order, in another shape."""
    kept = all(t.shape[-1:] == shape[-1:] == (t.numel(),) for t in (x.lower, x.upper))
    own = Bounds(x.lower.flatten(), x.upper.flatten()) if kept else overall(replace(x, entry=None))
    entry = None if x.entry is None else reordered(x.entry, shape).of_rank(len(shape))
    return replace(own, block=x.block, entry=entry)


def same(x: Bounds) -> Bounds:
    """Bound a copy."""
    return x


def item(values: Any, index: int) -> Bounds:
    """Pick one of several results."""
    return values[index] if isinstance(values, tuple) else unknown()


aten = torch.ops.aten
RULES: dict[Any, Callable[..., Any]] = {
    operator.getitem: item,
    aten.add.Tensor: add,
    aten.mul.Tensor: multiply,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.conv2d.default: convolution,
    aten.conv2d.padding: convolution,
    aten.linear.default: linear,
    aten.max_pool2d.default: per_channel,
    aten.adaptive_avg_pool2d.default: per_channel,
    aten.clone.default: same,
    aten.alias.default: same,
    aten.pad.default: padded,
    **dict.fromkeys(
        (
            aten.permute.default,
            aten.transpose.int,
            aten.expand.default,
            aten.slice.Tensor,
            aten.select.int,
            aten.roll.default,
            aten.mean.dim,
        ),
        overall,
    ),
}
OF_TWO = {aten.add.Tensor, aten.mul.Tensor}  # either may depend on the images, or both
VIEWS = {aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim}
