"""The penalty of LaCoOT (arXiv 2406.08933, section 4): R = (1/K) Σ_k MSW_2(μ_k, ν_k).

μ_k and ν_k are the laws of block k's input and output over a batch. The gradient runs through
both, so a step on λ·R moves each block towards leaving its input's law alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from models.units import Unit
from pipeline.activations import Features, block_features
from pipeline.distances import directions, max_sliced_wasserstein

Estimator = Callable[[Features], list[Tensor]]  # one scalar distance per block, with its graph


def random_directions(n_projections: int, generator: Generator) -> Estimator:
    """Search the best of `n_projections` fresh random directions per step, as the paper does.

    One set of directions serves all blocks of the same feature width.
    """

    def estimate(features: Features) -> list[Tensor]:
        shared: dict[int, Tensor] = {}
        distances = []
        for x, y in features.values():
            d = x[0].numel()
            if d not in shared:
                shared[d] = directions(d, n_projections, generator=generator, device=x.device)
            distances.append(max_sliced_wasserstein(x, y, projections=shared[d]))
        return distances

    return estimate


ESTIMATORS: dict[str, Callable[[int, Generator], Estimator]] = {"random": random_directions}


@contextmanager
def block_penalty(
    model: nn.Module, units: Sequence[Unit], estimator: Estimator
) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that gives R of the last forward pass, a scalar with its graph.

    Args:
        model: the network in training.
        units: the removable units over which R is the mean.
        estimator: made by one of `ESTIMATORS`.
    """
    with block_features(model, units) as features:

        def penalty() -> Tensor:
            value = torch.stack(estimator(features)).mean()
            features.clear()  # the graph must not outlive the step
            return value

        yield penalty
