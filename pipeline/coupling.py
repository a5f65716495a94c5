"""W_2 of many pairs of samples, each along one direction, as one function of the features.

∂W_2/∂x_i = (u_i − v_σ(i)) θ / (n·W_2) with u = θ·x, v = θ·y and σ their monotone coupling (envelope
theorem): of rank one per block. A tensor that leaves one block and enters the next gets the sum of
two such terms, written once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipeline.distributed import gather_columns, own_columns, world_size
from pipeline.layout import Order, from_rows, memory_order
from pipeline.projections import project

Pairs = Mapping[str, tuple[Tensor, Tensor]]  # block → (input, output), each (n, ...)
Thetas = Mapping[str, Float[Tensor, "1 d"]]  # block → direction, its coordinates as in `layouts`
Projected = Float[Tensor, "blocks 2 n"]  # inputs and outputs along each block's direction


def distinct(pairs: Pairs) -> list[Tensor]:
    """Return every tensor once, also that which leaves one block and enters the next."""
    return list({id(t): t for pair in pairs.values() for t in pair}.values())


def layouts(pairs: Pairs) -> dict[torch.Size, Order]:
    """Return one order of coordinates per feature shape: that of its first tensor in memory."""
    orders: dict[torch.Size, Order] = {}
    for x in distinct(pairs):
        if x.shape[1:] not in orders:
            orders[x.shape[1:]] = memory_order(x)
    return orders


@torch.no_grad()
def projected(pairs: Pairs, thetas: Thetas) -> Projected:
    """Return the projections of the inputs and outputs of all processes; each tensor read once."""
    orders = layouts(pairs)
    found: dict[tuple[str, int], Tensor] = {}
    for x in distinct(pairs):
        names = _blocks_of(x, pairs)
        own = torch.cat([thetas[name] for name in names])
        values = gather_columns(project(x, own, orders[x.shape[1:]]))
        found.update({(name, id(x)): row for name, row in zip(names, values, strict=True)})
    rows = [found[name, id(t)] for name, pair in pairs.items() for t in pair]
    return torch.stack(rows).reshape(len(pairs), 2, -1)


def residuals(projections: Float[Tensor, "*s 2 n"]) -> Float[Tensor, "*s 2 n"]:
    """Return u_i − v_σ(i) for every u_i, and v_j − u_σ⁻¹(j) for every v_j: the optimal gaps."""
    in_order, places = projections.sort(dim=-1)
    gaps = in_order[..., 0, :] - in_order[..., 1, :]
    both = torch.stack([gaps, -gaps], dim=-2)
    return torch.empty_like(both).scatter_(-1, places, both)


def distances_along(
    pairs: Pairs, thetas: Thetas, projections: Projected
) -> tuple[Float[Tensor, " blocks"], Projected]:
    """Return W_2 of each block along its direction, with a gradient, and the `residuals`.

    Args:
        pairs: all of them with equally many rows.
        thetas: unit directions.
        projections: what `projected` returns for them.
    """
    orders, blocks = layouts(pairs), list(pairs)
    targets = [
        _Target(
            shape=tuple(x.shape),
            dtype=x.dtype,
            order=orders[x.shape[1:]],
            parts=[(blocks.index(b), int(x is pairs[b][1])) for b in _blocks_of(x, pairs)],
            thetas=torch.cat([thetas[b] for b in _blocks_of(x, pairs)]),
        )
        for x in distinct(pairs)
    ]
    values, gaps = _Distances.apply(targets, projections, *distinct(pairs))
    return values, gaps


def _blocks_of(x: Tensor, pairs: Pairs) -> list[str]:
    return [name for name, pair in pairs.items() if any(x is t for t in pair)]


@dataclass(frozen=True)
class _Target:
    """A tensor to which a gradient flows, without its values: (block, input 0 | output 1) parts."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: Order
    parts: list[tuple[int, int]]
    thetas: Float[Tensor, "k d"]

    def gradient(self, weights: Float[Tensor, "blocks 2 n"]) -> Tensor:
        """Return Σ weights·θᵀ over the parts, in the tensor's type and memory layout."""
        own = torch.stack([weights[part] for part in self.parts], dim=1)  # (n, k)
        rows = own.to(self.dtype) @ self.thetas.to(self.dtype)
        return from_rows(rows, self.shape[1:], self.order)


class _Distances(Function):
    """W_2 of every block from its projections; keeps directions and weights, no features."""

    @staticmethod
    def forward(
        ctx: Any, targets: list[_Target], projections: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        gaps = residuals(projections)
        values = gaps[:, 0].square().mean(dim=-1).sqrt()
        # 0 instead of NaN where the distance is 0 (a defect of the authors' code)
        scale = torch.where(values > 0, 1 / (gaps.shape[-1] * values), 0.0)
        # DistributedDataParallel averages the gradients of the processes where a sum is due.
        weights = gaps * (scale * world_size())[:, None, None]
        ctx.weights, ctx.targets = own_columns(weights, len(tensors[0])), targets
        ctx.mark_non_differentiable(gaps)
        return values, gaps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.weights * gradient[:, None, None]
        return None, None, *(target.gradient(weights) for target in ctx.targets)
