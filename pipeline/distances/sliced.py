"""Sliced Wasserstein distances between two samples (LaCoOT, arXiv 2406.08933, section 3).

In one dimension with equal counts W_p is: sort both, mean |difference|^p, p-th root. Both
distances project onto unit directions first; one takes the largest, the other averages. The
gradient is that of the chosen direction and coupling alone (envelope theorem): of rank one, so
that the backward pass needs one direction and not all that were tried.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pipeline.distances.memory_order import Order, as_rows, memory_order
from pipeline.distances.projections import directions, project, with_gradient


def max_sliced_wasserstein(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "m ..."],
    *,
    n_projections: int = 50,
    p: int | float = 2,
    projections: Float[Tensor, "d L"] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """Return the largest W_p of the two samples over a set of directions.

    With random directions this is a lower bound of MSW_p, and what LaCoOT trains with.

    Args:
        x, y: samples, one per row; what follows the first dimension is flattened.
        n_projections: directions drawn where `projections` is not given.
        p: order of the distance, at least 1.
        projections: unit directions as columns, (d, L).
        generator: source of the directions; torch's global one where not given.

    Returns:
        A scalar of x's unit; its gradient is finite at zero distance.

    Raises:
        ValueError: the samples are empty, differ in dimension or do not fit the directions.
    """
    x, y, thetas, order = _checked(x, y, p, n_projections, projections, generator)
    u, v = (project(t, thetas, order) for t in (x, y))
    best = transport_costs(u, v, p).argmax()
    theta = thetas[best, None]
    u = with_gradient(u[best, None], x, theta, order)
    v = with_gradient(v[best, None], y, theta, order)
    return root(transport_costs(u, v, p)[0], p)


def sliced_wasserstein(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "m ..."],
    *,
    n_projections: int = 50,
    p: int | float = 2,
    projections: Float[Tensor, "d L"] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """Return the sliced W_p of the two samples: (mean over directions of W_p^p)^(1/p).

    Arguments, result and errors are those of `max_sliced_wasserstein`.
    """
    x, y, thetas, order = _checked(x, y, p, n_projections, projections, generator)
    u, v = (with_gradient(project(t, thetas, order), t, thetas, order) for t in (x, y))
    return root(transport_costs(u, v, p).mean(), p)


def projected_distances(
    u: Float[Tensor, "L n"], v: Float[Tensor, "L m"], p: int | float = 2
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (max-sliced, sliced) W_p of projected samples, one direction a row."""
    costs = transport_costs(u, v, p)
    return root(costs.max(), p), root(costs.mean(), p)


def transport_costs(
    u: Float[Tensor, "*L n"], v: Float[Tensor, "*L m"], p: int | float = 2
) -> Float[Tensor, "*L"]:
    """Return W_p^p per row: the cost of the monotone coupling of two one-dimensional samples."""
    return sorted_costs(sort(u), sort(v), p)


def sorted_costs(
    u: Float[Tensor, "*L n"], v: Float[Tensor, "*L m"], p: int | float = 2
) -> Float[Tensor, "*L"]:
    """Return `transport_costs` of rows that are sorted already."""
    n, m = u.shape[-1], v.shape[-1]
    if n == m:
        return (u - v).abs().pow(p).mean(dim=-1)
    columns_u, columns_v, weights = _monotone_coupling(n, m, u.device)
    gaps = (u[..., columns_u] - v[..., columns_v]).abs().pow(p)
    return (gaps * weights.to(gaps.dtype)).sum(dim=-1)


def sort(u: Float[Tensor, "*L n"]) -> Float[Tensor, "*L n"]:
    """Return the values of each row in ascending order.

    On the CPU NumPy sorts many times faster than torch, which also returns where each value was;
    that is needed for a gradient only.
    """
    if u.device.type == "cpu" and not u.requires_grad:
        return torch.from_numpy(np.sort(u.numpy(), axis=-1))
    return u.sort(dim=-1).values


def root(cost: Float[Tensor, "*L"], p: int | float = 2) -> Float[Tensor, "*L"]:
    """Return cost^(1/p), with gradient 0 instead of NaN at 0 (a defect of the authors' code)."""
    positive = cost > 0
    return torch.where(positive, torch.where(positive, cost, 1.0).pow(1 / p), 0.0)


def _monotone_coupling(
    n: int, m: int, device: torch.device
) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"], Float[Tensor, " k"]]:
    """Return which sorted values are coupled, and with what mass, for unequal counts.

    The two quantile functions are steps at i/n and j/m; counted in units of 1/(n·m) both are
    whole numbers, so no rounding decides which value a piece belongs to.
    """
    steps_u = torch.arange(1, n + 1, device=device) * m
    steps_v = torch.arange(1, m + 1, device=device) * n
    ends: Tensor = torch.unique(torch.cat([steps_u, steps_v]))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _checked(
    x: Tensor,
    y: Tensor,
    p: int | float,
    n_projections: int,
    projections: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Order]:
    """Check the samples; return them with directions (L, d) and the order of coordinates."""
    if p < 1:
        raise ValueError(f"the order p is at least 1, got {p}")
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(y) == 0:
        raise ValueError(f"samples need rows, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = (t if t.is_floating_point() else t.float() for t in (x, y))
    if x.shape[1:] != y.shape[1:]:
        x, y = (t.reshape(len(t), -1) for t in (x, y))
    d = x[0].numel()
    if d != y[0].numel():
        raise ValueError(f"samples differ in dimension: {d} and {y[0].numel()}")
    order = memory_order(x)
    if projections is None:
        thetas = directions(d, n_projections, generator=generator, device=x.device).t()
    elif projections.shape[0] != d:
        raise ValueError(f"directions have dimension {projections.shape[0]}, the samples {d}")
    else:
        thetas = as_rows(projections.t().reshape(-1, *x.shape[1:]), order)
    return x, y, thetas, order
