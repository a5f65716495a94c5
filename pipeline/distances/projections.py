"""Random directions, and features projected onto directions with a gradient of low rank.

Directions are rows here, (L, d), so that each lies in one piece of memory, with their coordinates
in the memory order of the features (`pipeline.distances.memory_order`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.distances.memory_order import Order, as_rows, from_rows

WINDOWS_FROM = 1024  # dimension from which directions are windows of one Gaussian vector
CACHED_VALUES = 2**19  # float32 values that stay in a CPU's cache


def directions(
    d: int, n: int, *, generator: Generator | None = None, device: torch.device | None = None
) -> Float[Tensor, "d n"]:
    """Draw `n` directions uniformly from the unit sphere of dimension `d`, as columns.

    From `WINDOWS_FROM` dimensions on, drawing d·n normals would cost more than projecting onto
    them. There direction l is ε ⊙ (g_l, …, g_{l+d−1}), normalised, with one Gaussian vector g of
    d + n values and one vector ε of random signs. Each direction is exactly uniform, and of any
    fixed x two projections are uncorrelated before normalisation:
    E[(θ_l·x)(θ_m·x)] = Σ x_i² E[g_{l+i} g_{m+i}] = 0 for l ≠ m, which windows alone are not.
    """
    source = generator.device if generator is not None else device
    if d < WINDOWS_FROM:
        rows = torch.randn(n, d, generator=generator, device=source)
        return functional.normalize(rows, dim=1).to(device).t()
    normal = torch.randn(d + n, generator=generator, device=source)
    signs = torch.randint(0, 2, (d,), generator=generator, device=source, dtype=torch.float32)
    squares = normal.double().square().cumsum(dim=0)
    norms = (squares[d:] - squares[:n]).sqrt().float()
    windows = normal[1:].as_strided((n, d), (1, 1))
    rows = normal.new_empty(n, d)  # as `out`: the product of overlapping rows is laid out badly
    torch.mul(windows, signs.mul_(2).sub_(1), out=rows)
    rows /= norms[:, None]
    return rows.to(device).t()


@torch.no_grad()
def project(
    x: Float[Tensor, "n ..."], thetas: Float[Tensor, "L d"], order: Order
) -> Float[Tensor, "L n"]:
    """Return the projections of `x`, computed in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        parts = [thetas.to(wide) @ part.to(wide).t() for part in _pieces(x, order)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@torch.no_grad()
def pull_back(
    parts: Sequence[tuple[Float[Tensor, "s _"], Float[Tensor, "_ ..."]]], order: Order
) -> Float[Tensor, "s d"]:
    """Return Σ weights·X over the parts (weights, X), computed in float32 or wider."""
    (_, first), *_ = parts
    wide = torch.promote_types(first.dtype, torch.float32)
    terms: list[tuple[Tensor, Tensor]] = []  # pieces of the rows, each with its columns of weights
    for weights, x in parts:
        pieces = _pieces(x, order)
        columns = torch.split(weights.to(wide), [len(piece) for piece in pieces], dim=1)
        terms += zip(columns, pieces, strict=True)
    with torch.autocast(first.device.type, enabled=False):
        total: Tensor = terms[0][0] @ terms[0][1].to(wide)
        for own, piece in terms[1:]:  # added to as they come, no sum of whole vectors
            total.addmm_(own, piece.to(wide))
    return total


def _pieces(x: Tensor, order: Order) -> Sequence[Tensor]:
    """Return the rows of `x`, on a CPU in pieces whose wider copies fit into its cache.

    Copying half-precision features whole costs several times more than the products themselves,
    most of it for mapping fresh memory.
    """
    rows = as_rows(x, order)
    if x.dtype.itemsize >= 4 or x.device.type != "cpu":
        return [rows]
    return torch.split(rows, max(1, CACHED_VALUES // rows.shape[1]))


@torch.no_grad()
def try_directions(
    x: Float[Tensor, "n ..."], thetas: Float[Tensor, "L d"], order: Order
) -> Float[Tensor, "L n"]:
    """Return projections in float32 or wider, of half-precision features from fast products.

    Their rounding is no worse than that of the features themselves: enough to find the best
    direction.
    """
    rows = as_rows(x, order)
    with torch.autocast(x.device.type, enabled=False):
        tried = thetas.to(rows.dtype) @ rows.t()
    return tried.to(torch.promote_types(tried.dtype, torch.float32))


def with_gradient(
    values: Float[Tensor, "k n"],
    x: Float[Tensor, "n ..."],
    thetas: Float[Tensor, "k d"],
    order: Order,
) -> Float[Tensor, "k n"]:
    """Return `values`, the projections of `x` onto `thetas`, as a function of x.

    Its gradient (∂/∂values)ᵀ·Θ has rank k at most; neither x nor its rows are kept for it.
    """
    result: Tensor = _Projection.apply(x, thetas, values, order)
    return result


class _Projection(Function):
    """Θ·xᵀ, computed elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, thetas: Tensor, values: Tensor, order: Order) -> Tensor:
        ctx.save_for_backward(thetas)
        ctx.dtype, ctx.shape, ctx.order = x.dtype, tuple(x.shape[1:]), order
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Map (k, n) to x's shape, in x's type and memory layout."""
        (thetas,) = ctx.saved_tensors
        rows = low_rank(gradient.t(), thetas, ctx.dtype)
        return from_rows(rows, ctx.shape, ctx.order), None, None, None


def low_rank(
    weights: Float[Tensor, "n k"], thetas: Float[Tensor, "k d"], dtype: torch.dtype
) -> Float[Tensor, "n d"]:
    """Return weights·Θ. For one direction an elementwise product is twice as fast on a CPU."""
    weights, thetas = weights.to(dtype), thetas.to(dtype)
    return weights * thetas if len(thetas) == 1 else weights @ thetas
