"""Recoverability: what removing a block adds to the loss after further training without blocks.

Distances and Block Influence describe a network that was never trained without its blocks. Here it
is trained on first, and one shared training replaces one per set of blocks: every step bypasses
another random set. Then the loss without each of some sets, measured on the same images, is
explained by the blocks that were missing,

    loss(S) ≈ c + Σ_k v_k · [k ∈ S],

and the least-squares v_k is the score of block k. Nothing shows that this orders blocks better than
the other criteria do (docs/results.md, docs/decisions/0014-recoverability.md).
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
from models.surgery import bypassed

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

    Where all sets are of one size, only differences of the v_k are determined: a constant could
    move between c and them.
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
        subsets: names of blocks to bypass.
        batches: images (b, c, h, w) and labels (b,) on the model's device, the same for all.
    """
    losses = []
    with batch_statistics(model):
        for subset in subsets:
            with bypassed(model, subset):
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
    training: Iterable[tuple[Tensor, Tensor]],
    held_out: Sequence[tuple[Tensor, Tensor]],
    *,
    size: int,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Train `model` on with random sets of blocks bypassed; return what each then adds to the loss.

    Args:
        model: a trained network, which changes: pass a copy.
        names: its removable blocks.
        training: batches of images (b, c, h, w) and labels (b,), on the model's device.
        held_out: the batches on which the losses are compared.
        size: how many blocks a set has. Where that is all of them there is nothing to compare.
        learning_rate: of SGD with momentum 0.9.
        seed: of the sets.

    Raises:
        ShoalError: the losses are not finite, because training on diverged.
    """
    generator = random.Random(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    model.train()
    for images, labels in training:
        with bypassed(model, generator.sample(list(names), size)):
            loss = cross_entropy(model(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    subsets = balanced_subsets(names, size, seed)
    losses = losses_without(model, subsets, held_out)
    if not all(map(math.isfinite, losses)):
        raise ShoalError(
            "recoverability: the loss without some of the blocks is not finite; lower "
            f"score.recovery_learning_rate (now {learning_rate:g}) or set score.recovery_images "
            "to 0; lower train.learning_rate where the network was still in training"
        )
    return marginal_losses(names, subsets, losses)
