"""Which blocks a network can do without after further training, by trying many sets of them.

Scores of a trained network (distances, Block Influence) look at it before it has been trained
without its blocks. This one looks afterwards, and one shared training stands in for one per set:
every step leaves out another random set of blocks. Then the loss without each of some sets,
measured on the same images, is explained by who was missing,

    loss(S) ≈ c + Σ_k v_k · [k ∈ S],

and the least-squares v_k is what block k adds to the loss when it goes.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from models.errors import ShoalError
from models.surgery import left_out

ROUNDS = 2  # how often every block is missing from every place of a set


def balanced_subsets(
    names: Sequence[str], size: int, seed: int, rounds: int = ROUNDS
) -> list[list[str]]:
    """Return sets of `size` blocks each, from which all blocks are missing equally often.

    Each round shuffles the blocks in a ring and takes every run of `size` neighbours.
    """
    generator = random.Random(seed)
    rings = [generator.sample(list(names), len(names)) for _ in range(rounds)]
    return [(ring[i:] + ring[:i])[:size] for ring in rings for i in range(len(ring))]


def marginal_losses(
    names: Sequence[str], subsets: Sequence[Sequence[str]], losses: Sequence[float]
) -> dict[str, float]:
    """Return each block's v_k, the smallest of all least-squares solutions.

    Where all sets are of one size, a constant could move between c and the v_k: differences of the
    v_k tell, their level does not.
    """
    missing = [[1.0, *(float(name in subset) for name in names)] for subset in subsets]
    solution = np.linalg.lstsq(np.array(missing), np.array(losses), rcond=None)[0]
    return dict(zip(names, solution[1:].tolist(), strict=True))


@torch.no_grad()
def losses_without(
    model: nn.Module, subsets: Iterable[Sequence[str]], batches: Sequence[tuple[Tensor, Tensor]]
) -> list[float]:
    """Return the cross-entropy of the network without each of the subsets.

    Batch norm takes the statistics of the batch: running ones are those of no subset.

    Args:
        model: a network; it is as before afterwards.
        subsets: names of blocks.
        batches: images (b, c, h, w) and labels (b,) on the model's device, the same for all.
    """
    losses = []
    with batch_statistics(model):
        for subset in subsets:
            with left_out(model, subset):
                sums = [cross_entropy(model(x).float(), y, reduction="sum") for x, y in batches]
            losses.append(torch.stack(sums).sum().item() / sum(len(y) for _, y in batches))
    return losses


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms use the statistics of each batch and leave the running ones alone.

    All else is in evaluation mode meanwhile, and as before afterwards.
    """
    training = {module: module.training for module in model.modules()}
    norms = [m for m in training if isinstance(m, _BatchNorm) and m.track_running_stats]
    model.eval()
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module, was in training.items():
            module.training = was


def recoverability(
    model: nn.Module,
    names: Sequence[str],
    learned: Iterable[tuple[Tensor, Tensor]],
    judged: Sequence[tuple[Tensor, Tensor]],
    *,
    size: int,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Train `model` on with random sets of blocks left out; return what each block is worth then.

    Args:
        model: a trained network, which changes: pass a copy.
        names: its removable blocks.
        learned: training batches, images (b, c, h, w) and labels (b,), on the model's device.
        judged: the batches on which the losses are compared.
        size: how many blocks a set has. Where that is all of them there is nothing to compare.
        learning_rate: of SGD with momentum 0.9.
        seed: of the sets.

    Raises:
        ShoalError: the losses are not finite, because training on diverged.
    """
    generator = random.Random(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    model.train()
    for images, labels in learned:
        with left_out(model, generator.sample(list(names), size)):
            loss = cross_entropy(model(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    subsets = balanced_subsets(names, size, seed)
    losses = losses_without(model, subsets, judged)
    if not all(map(math.isfinite, losses)):
        raise ShoalError(
            "recoverability: the loss without some of the blocks is not finite; lower "
            f"score.recovery_learning_rate (now {learning_rate:g}) or set score.recovery_images "
            "to 0; lower train.learning_rate where the network was still in training"
        )
    return marginal_losses(names, subsets, losses)
