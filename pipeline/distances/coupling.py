"""W_2 of many pairs of samples, each along one direction, as one function of the features.

∂W_2/∂x_i = (u_i − v_σ(i)) θ / (n·W_2) with u = θ·x, v = θ·y and σ their monotone coupling (envelope
theorem): of rank one per block. A tensor that leaves one block and enters the next gets the sum of
two such terms, written once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipeline.core.distributed import gather_columns, own_columns, world_size
from pipeline.distances.memory_order import Order, from_rows, memory_order
from pipeline.distances.projections import low_rank, project

Pairs = Mapping[str, tuple[Tensor, Tensor]]  # block → (input, output), each (n, ...)
Thetas = Sequence[Float[Tensor, "1 _"]]  # a direction per block, its coordinates as in `Feature`
Projected = Float[Tensor, "blocks 2 n"]  # inputs and outputs along each block's direction


@dataclass(frozen=True)
class Feature:
    """A tensor that enters or leaves blocks, once however many of them share it."""

    x: Float[Tensor, "n ..."]
    order: Order  # of its coordinates; one per feature shape
    places: list[tuple[int, int]]  # (number of the block, 0 where it enters | 1 where it leaves)


def distinct(pairs: Pairs) -> list[Feature]:
    """Return every tensor of the pairs once, with its coordinates as the first one has them."""
    orders: dict[torch.Size, Order] = {}
    found: dict[int, Feature] = {}
    for number, pair in enumerate(pairs.values()):
        for side, x in enumerate(pair):
            if id(x) not in found:
                order = orders.setdefault(x.shape[1:], memory_order(x))
                found[id(x)] = Feature(x, order, [])
            found[id(x)].places.append((number, side))
    return list(found.values())


def block_orders(features: Sequence[Feature]) -> list[Order]:
    """Return the order of coordinates of every block."""
    of_block = {number: f.order for f in features for number, _ in f.places}
    return [of_block[number] for number in range(len(of_block))]


@torch.no_grad()
def projected(features: Sequence[Feature], thetas: Thetas) -> Projected:
    """Return the projections of the inputs and outputs of all processes; each tensor read once."""
    rows: dict[tuple[int, int], Float[Tensor, " n"]] = {}
    for feature in features:
        values = project(feature.x, _thetas_of(feature, thetas), feature.order)
        rows.update(zip(feature.places, values.unbind(), strict=True))
    gathered: Tensor = gather_columns(torch.stack([rows[place] for place in sorted(rows)]))
    return gathered.reshape(len(rows) // 2, 2, -1)


def residuals(projections: Float[Tensor, "*s 2 n"]) -> Float[Tensor, "*s 2 n"]:
    """Return u_i − v_σ(i) for every u_i, and v_j − u_σ⁻¹(j) for every v_j: the optimal gaps."""
    in_order, places = projections.sort(dim=-1)
    gaps = in_order[..., 0, :] - in_order[..., 1, :]
    both = torch.stack([gaps, -gaps], dim=-2)
    return torch.empty_like(both).scatter_(-1, places, both)


def distances_along(
    features: Sequence[Feature], thetas: Thetas, projections: Projected
) -> tuple[Float[Tensor, " blocks"], Projected]:
    """Return W_2 of each block along its direction, with a gradient, and the `residuals`.

    Args:
        features: what enters and leaves the blocks, all of it with equally many rows.
        thetas: unit directions.
        projections: what `projected` returns for them.
    """
    targets = [
        _Target(tuple(f.x.shape[1:]), f.x.dtype, f.order, f.places, _thetas_of(f, thetas))
        for f in features
    ]
    values, gaps = _Distances.apply(targets, projections, *(f.x for f in features))
    return values, gaps


def _thetas_of(feature: Feature, thetas: Thetas) -> Float[Tensor, "k d"]:
    """Return the directions of the blocks that share a tensor."""
    own = [thetas[number] for number, _ in feature.places]
    return own[0] if len(own) == 1 else torch.cat(own)


@dataclass(frozen=True)
class _Target:
    """A tensor to which a gradient flows, without its values."""

    shape: tuple[int, ...]  # of the features
    dtype: torch.dtype
    order: Order
    places: list[tuple[int, int]]
    thetas: Float[Tensor, "k d"]

    def gradient(self, weights: Float[Tensor, "blocks 2 n"]) -> Tensor:
        """Return Σ weights·θᵀ over the places, in the tensor's type and memory layout."""
        own = torch.stack([weights[place] for place in self.places], dim=1)  # (n, k)
        return from_rows(low_rank(own, self.thetas, self.dtype), self.shape, self.order)


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
