"""The penalty of LaCoOT (arXiv 2406.08933, section 4): R = (1/K) Σ_k MSW_2(μ_k, ν_k).

μ_k and ν_k are the laws of block k's input and output over a batch, that of all processes where
there are several. The gradient runs through both, so a step on λ·R moves each block towards
leaving its input's law alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from models.units import Unit
from pipeline.distances.estimators import Estimator
from pipeline.distances.features import Features, block_features


@contextmanager
def block_penalty(
    model: nn.Module, units: Sequence[Unit], estimator: Estimator, generator: Generator
) -> Iterator[Callable[[], Tensor]]:
    """Yield a function that gives R of the last forward pass, a scalar with its graph.

    Blocks that are removed from the model meanwhile no longer count.

    Args:
        model: the network in training.
        units: the removable units over which R is the mean.
        estimator: made by one of `pipeline.distances.estimators.ESTIMATORS`.
        generator: of the directions, seeded alike in all processes of a run.
    """
    with block_features(model, units) as features:

        def penalty() -> Tensor:
            if not features:  # all blocks are removed
                return torch.zeros((), device=generator.device)
            groups = _by_rows(features)
            value = torch.cat([estimator(group, generator) for group in groups]).mean()
            features.clear()  # the graph must not outlive the step
            return value

        yield penalty


def _by_rows(features: Features) -> list[Features]:
    """Group the blocks by the rows of their features: windowed attention has more than images."""
    groups: dict[int, Features] = defaultdict(dict)
    for name, (x, y) in features.items():
        groups[len(x)][name] = (x, y)
    return list(groups.values())
