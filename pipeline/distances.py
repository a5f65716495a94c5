"""Sliced Wasserstein distances between two samples (LaCoOT, arXiv 2406.08933, section 3).

In one dimension with equal counts W_p is: sort both, mean |difference|^p, p-th root. Both
distances project onto unit directions first; one takes the largest, the other averages. The
gradient is that of the chosen direction and order alone (envelope theorem), so the backward pass
needs one direction, not all of them.
"""

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor


def directions(
    d: int, n: int, *, generator: Generator | None = None, device: torch.device | None = None
) -> Float[Tensor, "d n"]:
    """Draw `n` directions uniformly from the unit sphere of dimension `d`, as columns."""
    source = generator.device if generator is not None else device
    normal = torch.randn(d, n, generator=generator, device=source)
    return torch.nn.functional.normalize(normal, dim=0).to(device)


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
    x, y, projections = _prepare(x, y, p, n_projections, projections, generator)
    with _full_precision(x):
        with torch.no_grad():
            best = _transport_costs(x @ projections, y @ projections, p).argmax()
            theta = projections[:, best : best + 1]
        return _root(_transport_costs(x @ theta, y @ theta, p)[0], p)


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
    x, y, projections = _prepare(x, y, p, n_projections, projections, generator)
    with _full_precision(x):
        return _root(_transport_costs(x @ projections, y @ projections, p).mean(), p)


def projected_distances(
    x: Float[Tensor, "n L"], y: Float[Tensor, "m L"], p: int | float = 2
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return (max-sliced, sliced) W_p of projected samples, one direction a column."""
    costs = _transport_costs(x, y, p)
    return _root(costs.max(), p), _root(costs.mean(), p)


def _prepare(
    x: Tensor,
    y: Tensor,
    p: int | float,
    n_projections: int,
    projections: Tensor | None,
    generator: Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flatten the samples to float32 (or wider) matrices and make sure there are directions."""
    if p < 1:
        raise ValueError(f"the order p is at least 1, got {p}")
    if x.ndim == 0 or y.ndim == 0 or len(x) == 0 or len(y) == 0:
        raise ValueError(f"samples need rows, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = (t.reshape(len(t), -1) for t in (x, y))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples differ in dimension: {x.shape[1]} and {y.shape[1]}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    if projections is None:
        projections = directions(x.shape[1], n_projections, generator=generator, device=x.device)
    if projections.shape[0] != x.shape[1]:
        raise ValueError(
            f"directions have dimension {projections.shape[0]}, the samples {x.shape[1]}"
        )
    return x.to(dtype), y.to(dtype), projections.to(dtype)


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def _transport_costs(
    x: Float[Tensor, "n L"], y: Float[Tensor, "m L"], p: int | float
) -> Float[Tensor, " L"]:
    """Return W_p^p per column: the cost of the monotone coupling of two one-dimensional samples."""
    x, y = x.sort(dim=0).values, y.sort(dim=0).values
    if len(x) == len(y):
        return (x - y).abs().pow(p).mean(dim=0)
    rows_x, rows_y, weights = _monotone_coupling(len(x), len(y), x.device)
    return ((x[rows_x] - y[rows_y]).abs().pow(p) * weights[:, None].to(x.dtype)).sum(dim=0)


def _monotone_coupling(
    n: int, m: int, device: torch.device
) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"], Float[Tensor, " k"]]:
    """Return which sorted rows are coupled, and with what mass, for unequal counts.

    The two quantile functions are steps at i/n and j/m; counted in units of 1/(n·m) both are
    whole numbers, so no rounding decides which row a piece belongs to.
    """
    steps_x = torch.arange(1, n + 1, device=device) * m
    steps_y = torch.arange(1, m + 1, device=device) * n
    ends: Tensor = torch.unique(torch.cat([steps_x, steps_y]))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def _root(cost: Float[Tensor, ""], p: int | float) -> Float[Tensor, ""]:
    """Return cost^(1/p), with gradient 0 instead of NaN at 0 (a defect of the authors' code)."""
    positive = cost > 0
    return torch.where(positive, torch.where(positive, cost, 1.0).pow(1 / p), 0.0)
