"""The direction of the largest distance by ascent: arg max over unit θ of W_2(θ·X, θ·Y).

W_2² along θ is θᵀMθ with M = (1/n) Σ (x_i − y_σ(i))(x_i − y_σ(i))ᵀ and σ the coupling that is
monotone along θ. Its gradient 2Mθ lies in the span of the rows, so only that span is searched.
Only projections and weighted sums of rows are needed; with several processes the former are
gathered and the latter summed.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pipeline.core.distributed import gather_columns, global_count, own_columns, sum_over_processes
from pipeline.distances.coupling import residuals
from pipeline.distances.memory_order import Order
from pipeline.distances.projections import project, pull_back
from pipeline.distances.sliced import transport_costs

ANGLES = 16  # tried per step: π/2, π/4, …


@torch.no_grad()
def power_step(
    thetas: Float[Tensor, "s d"],
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "n ..."],
    gaps: Float[Tensor, "s 2 N"],
    order: Order,
) -> Float[Tensor, "s d"]:
    """Return Mθ / ‖Mθ‖ of each direction; where Mθ = 0, θ as it was.

    Args:
        thetas: directions, their coordinates in `order`.
        x, y: this process's features.
        gaps: `residuals` of all processes' projections onto the directions.
        order: of the features' coordinates.
    """
    own = own_columns(gaps, len(x))
    product = sum_over_processes(pull_back([(own[:, 0], x), (own[:, 1], y)], order))
    length = torch.linalg.vector_norm(product, dim=1, keepdim=True)
    return torch.where(length > 0, product / length, thetas.to(product.dtype))


@torch.no_grad()
def ascend(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "n ..."],
    order: Order,
    *,
    starts: int = 8,
    steps: int = 100,
    generator: Generator | None = None,
) -> Float[Tensor, "1 d"]:
    """Return the best direction found by monotone ascent from several starts.

    Each step moves along the great circle through θ and Mθ; as projections are linear, trying
    many angles costs sorting only. Starts are the difference of the means and random combinations
    of the centred rows.

    Args:
        x, y: equally many samples.
        order: of the features' coordinates, also in the result.
        starts: number of ascents, each to a local maximum.
        steps: at most; the ascents end where none gains more than one part in a million.
        generator: of the starts.
    """
    thetas = _starts(x, y, order, starts, generator)
    uv = _projections(x, y, thetas, order)
    value = transport_costs(uv[:, 0], uv[:, 1])
    angles = (math.pi / 2) * 0.5 ** torch.arange(ANGLES, device=uv.device, dtype=uv.dtype)
    cos, sin = (t[:, None, None, None] for t in (angles.cos(), angles.sin()))
    for _ in range(steps):
        towards = _orthogonal(power_step(thetas, x, y, residuals(uv), order), thetas)
        step = _projections(x, y, towards, order)
        circle = cos * uv + sin * step  # (angles, starts, 2, N)
        best, index = transport_costs(circle[:, :, 0], circle[:, :, 1]).max(dim=0)
        angle = torch.where(best > value, angles[index], 0.0)[:, None]
        thetas = angle.cos() * thetas + angle.sin() * towards
        uv = angle.cos()[..., None] * uv + angle.sin()[..., None] * step
        length = torch.linalg.vector_norm(thetas, dim=1, keepdim=True)  # rounding adds up
        thetas, uv = thetas / length, uv / length[..., None]
        if bool((best <= value * (1 + 1e-6)).all()):
            break
        value = torch.maximum(value, best)
    return thetas[value.argmax(), None]


def _projections(x: Tensor, y: Tensor, thetas: Tensor, order: Order) -> Float[Tensor, "s 2 N"]:
    return torch.stack([gather_columns(project(t, thetas, order)) for t in (x, y)], dim=1)


def _starts(
    x: Tensor, y: Tensor, order: Order, starts: int, generator: Generator | None
) -> Float[Tensor, "starts d"]:
    """Return unit directions in the span of the rows; any unit vector where the span is {0}."""
    n = global_count(len(x), x.device)
    source = generator.device if generator is not None else x.device
    weights = torch.randn(starts - 1, 2 * n, generator=generator, device=source).to(x.device)
    weights -= weights.mean(dim=1, keepdim=True)
    means = torch.tensor([1 / n, -1 / n], device=x.device).repeat_interleave(n)
    weights = torch.cat([means[None], weights])
    to_x, to_y = (own_columns(part, len(x)) for part in torch.split(weights, n, dim=1))
    thetas = sum_over_processes(pull_back([(to_x, x), (to_y, y)], order))
    length = thetas.norm(dim=1, keepdim=True)
    diagonal = torch.full_like(thetas, thetas.shape[1] ** -0.5)
    return torch.where(length > 0, thetas / length, diagonal)


def _orthogonal(directions: Tensor, to: Tensor) -> Float[Tensor, "s d"]:
    """Return the unit part of each direction that is orthogonal to `to`; 0 where there is none."""
    rest = directions - (directions * to).sum(dim=1, keepdim=True) * to
    length = rest.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-6, rest / length, 0.0)
