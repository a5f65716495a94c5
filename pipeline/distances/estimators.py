"""Estimators of the largest distance over all directions, block by block (LaCoOT, section 4).

`random` tries new directions at every step, as the paper does. `power` keeps one direction per
block and improves it by one power iteration per step, as spectral normalisation does
(arXiv 1802.05957). `ascent` searches for the maximum at every step: slow, for reference.

Random directions measure a shift δ of the features only as about 2.5·‖δ‖/√d. `power` and `ascent`
measure all of it and multiply the distance by that factor (`random_gain`): a shift then costs the
same by every estimator, and λ keeps its meaning.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pipeline.core.distributed import gather_columns
from pipeline.distances.ascent import ascend, power_step
from pipeline.distances.coupling import Pairs, block_orders, distances_along, distinct, projected
from pipeline.distances.memory_order import as_rows, from_rows
from pipeline.distances.projections import directions, try_directions
from pipeline.distances.sliced import sort, sorted_costs


class Estimator(ABC):
    """Measures the distance of every pair, with a gradient; may keep directions between steps."""

    def __init__(self, n_projections: int) -> None:
        self.n_projections = n_projections
        self.thetas: dict[str, Tensor] = {}  # block → direction, of the features' shape

    @abstractmethod
    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """Return one distance per block; `generator` must be alike in all processes of a run."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a continued run needs: the directions that are kept."""
        return dict(self.thetas)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.thetas = dict(state)

    def _gains(self, pairs: Pairs) -> Float[Tensor, " blocks"]:
        gain, xs = random_gain(self.n_projections), [x for x, _ in pairs.values()]
        return torch.tensor([gain / math.sqrt(x[0].numel()) for x in xs], device=xs[0].device)


class Random(Estimator):
    """The best of `n_projections` new directions, one set of them per feature width."""

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
        else:  # computed above
            rows = [tried[b, side].index_select(0, best[b]) for b, side in sorted(tried)]
            projections = torch.cat(rows).reshape(len(pairs), 2, -1)
        return distances_along(features, thetas, projections)[0]


class Power(Estimator):
    """One direction per block; after each step θ ← Mθ / ‖Mθ‖, M of that step's coupling."""

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
        for i, (name, (x, y)) in enumerate(pairs.items()):
            improved = power_step(thetas[i], x, y, gaps[i, None], orders[i])
            self.thetas[name] = from_rows(improved, tuple(x.shape[1:]), orders[i])[0]
        return distances * self._gains(pairs)


class Ascent(Estimator):
    """The maximum itself, by ascent from several starts at every step."""

    def __call__(self, pairs: Pairs, generator: Generator) -> Float[Tensor, " blocks"]:
        """See `Estimator`."""
        features = distinct(pairs)
        thetas = [
            ascend(x, y, order, generator=generator)
            for (x, y), order in zip(pairs.values(), block_orders(features), strict=True)
        ]
        distances, _ = distances_along(features, thetas, projected(features, thetas))
        return distances * self._gains(pairs)


ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "random": Random,
    "power": Power,
    "ascent": Ascent,
}


@cache
def random_gain(n_projections: int) -> float:
    """Return E max |g_l| of L standard normals: √d times what L random directions see of a shift.

    It is 2.51 for the paper's 50; E max = ∫ P(max > t) dt, the integrand being below 1e-15 at 9.
    """
    t = torch.linspace(0, 9, 9001, dtype=torch.float64)
    above = 1 - torch.erf(t / math.sqrt(2)).pow(n_projections)
    return torch.trapezoid(above, t).item()
