"""How the direction of the largest distance is sought, block by block (LaCoOT, section 4).

`random` tries fresh directions at every step, as the paper does. `power` keeps one direction per
block and improves it by one power iteration per step, as spectral normalisation does
(arXiv 1802.05957). `ascent` climbs to the maximum at every step: slow, for reference.

Random directions see a shift δ of the features only as about 2.5·‖δ‖/√d. `power` and `ascent` see
all of it and multiply the distance by that factor (`random_gain`): a shift then costs the same by
every estimator, and λ keeps its meaning.
"""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pipeline.ascent import ascend, power_step
from pipeline.coupling import Pairs, block_orders, distances_along, distinct, projected
from pipeline.distances import sort, sorted_costs
from pipeline.distributed import gather_columns
from pipeline.layout import as_rows, from_rows
from pipeline.projections import directions, try_directions


@runtime_checkable
class Estimator(Protocol):
    """Measures the distance of every pair, with a gradient; may remember things between steps."""

    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """Return one distance per block; `generator` must be alike in all processes of a run."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a continued run needs."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned."""


class Random:
    """The best of `n_projections` fresh directions, one set of them per feature width."""

    def __init__(self, n_projections: int) -> None:
        self.n_projections = n_projections

    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """See `Estimator`. Every tensor is projected once, however many blocks share it."""
        features = distinct(pairs)
        sets: dict[int, Float[Tensor, "L d"]] = {}
        tried: dict[tuple[int, int], Float[Tensor, "L n"]] = {}  # of all processes
        in_order: dict[tuple[int, int], Float[Tensor, "L n"]] = {}
        for feature in features:
            x, d = feature.x, feature.x[0].numel()
            if d not in sets:
                drawn = directions(d, self.n_projections, generator=generator, device=x.device)
                sets[d] = drawn.t().to(x.dtype)
            values = gather_columns(try_directions(x, sets[d], feature.order))
            tried.update(dict.fromkeys(feature.places, values))
            in_order.update(dict.fromkeys(feature.places, sort(values)))
        best = [
            sorted_costs(in_order[block, 0], in_order[block, 1]).argmax(dim=0, keepdim=True)
            for block in range(len(pairs))
        ]
        thetas = [
            sets[x[0].numel()].index_select(0, index)
            for (x, _), index in zip(pairs.values(), best, strict=True)
        ]
        if any(feature.x.dtype.itemsize < 4 for feature in features):
            projections = projected(features, thetas)
        else:  # known already
            rows = [tried[b, side].index_select(0, best[b]) for b, side in sorted(tried)]
            projections = torch.cat(rows).reshape(len(pairs), 2, -1)
        return distances_along(features, thetas, projections)[0]

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: every step starts afresh."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up nothing."""


class Power:
    """One direction per block; after each step θ ← Mθ / ‖Mθ‖, M of that step's coupling."""

    def __init__(self, n_projections: int) -> None:
        self.gain = random_gain(n_projections)
        self.thetas: dict[str, Tensor] = {}  # block → direction, of the features' shape

    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """See `Estimator`. The first direction of a block is drawn from `generator`."""
        features = distinct(pairs)
        orders = block_orders(features)
        thetas = []
        for (name, (x, _)), order in zip(pairs.items(), orders, strict=True):
            if name not in self.thetas:
                drawn = directions(x[0].numel(), 1, generator=generator, device=x.device)
                self.thetas[name] = drawn.reshape(x.shape[1:])
            thetas.append(as_rows(self.thetas[name].to(x.device)[None], order))
        distances, gaps = distances_along(features, thetas, projected(features, thetas))
        for (name, (x, y)), theta, own_gaps, order in zip(
            pairs.items(), thetas, gaps, orders, strict=True
        ):
            moved = power_step(theta, x, y, own_gaps[None], order)
            self.thetas[name] = from_rows(moved, tuple(x.shape[1:]), order)[0]
        return distances * _gains(pairs, self.gain)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the directions."""
        return dict(self.thetas)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the directions."""
        self.thetas = dict(state)


class Ascent:
    """The maximum itself, by ascent from several starts at every step."""

    def __init__(self, n_projections: int) -> None:
        self.gain = random_gain(n_projections)

    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """See `Estimator`."""
        features = distinct(pairs)
        thetas = [
            ascend(x, y, order, generator=generator)
            for (x, y), order in zip(pairs.values(), block_orders(features), strict=True)
        ]
        distances, _ = distances_along(features, thetas, projected(features, thetas))
        return distances * _gains(pairs, self.gain)

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: every step starts afresh."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up nothing."""


ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "random": Random,
    "power": Power,
    "ascent": Ascent,
}


def random_gain(n_projections: int) -> float:
    """Return E max |g_l| of L standard normals: √d times what L random directions see of a shift.

    It is 2.51 for the paper's 50; E max = ∫ P(max > t) dt, the integrand being below 1e-15 at 9.
    """
    t = torch.linspace(0, 9, 9001, dtype=torch.float64)
    above = 1 - torch.erf(t / math.sqrt(2)).pow(n_projections)
    return torch.trapezoid(above, t).item()


def _gains(pairs: Pairs, gain: float) -> Float[Tensor, " blocks"]:
    xs = [x for x, _ in pairs.values()]
    return torch.tensor([gain / math.sqrt(x[0].numel()) for x in xs], device=xs[0].device)
