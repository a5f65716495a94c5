"""Score every removable block: how much would it be missed? Low means: remove first.

Distances are taken over the whole calibration set (METHOD: LaCoOT, arXiv 2406.08933, section 3);
Block Influence is that of ShortGPT (arXiv 2403.03853).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from models.surgery import bypass
from pipeline.activations import BlockStatistics, measure_blocks
from pipeline.data import Dataset, batches, subset
from pipeline.evaluate import accuracy_pct
from pipeline.params import Score
from pipeline.progress import progress

BATCH = 256


@dataclass(frozen=True)
class Evidence:
    """What the criteria judge by."""

    statistics: Mapping[str, BlockStatistics]  # block → distances and guards
    accuracy_drop_pct: Mapping[str, float]  # block → validation points lost without it
    seed: int


def msw(evidence: Evidence) -> dict[str, float]:
    """Return the max-sliced Wasserstein distance of each block's input and output."""
    return {name: s.msw for name, s in evidence.statistics.items()}


def sliced(evidence: Evidence) -> dict[str, float]:
    """Return the sliced Wasserstein distance of each block's input and output."""
    return {name: s.sliced for name, s in evidence.statistics.items()}


def block_influence(evidence: Evidence) -> dict[str, float]:
    """Return 1 − E cos(x, f(x)) of each block."""
    return {name: 1 - s.cosine for name, s in evidence.statistics.items()}


def leave_one_out(evidence: Evidence) -> dict[str, float]:
    """Return the points of validation accuracy lost when the block alone is removed."""
    return dict(evidence.accuracy_drop_pct)


def at_random(evidence: Evidence) -> dict[str, float]:
    """Return seeded random scores: the floor that every criterion has to beat."""
    generator = random.Random(evidence.seed)
    return {name: generator.random() for name in evidence.statistics}


CRITERIA: dict[str, Callable[[Evidence], dict[str, float]]] = {
    "msw": msw,
    "sliced": sliced,
    "block_influence": block_influence,
    "random": at_random,
    "leave_one_out": leave_one_out,
}


def score(
    model: nn.Module, blocks: Sequence[str], data: Dataset, params: Score, device: torch.device
) -> dict[str, Any]:
    """Score the blocks by every criterion.

    Args:
        model: the trained network.
        blocks: names of its removable blocks.
        data: the calibration set is drawn from train; leave-one-out looks at validation.
        params: the `score` section.
        device: where to run.

    Returns:
        ``scores`` {criterion: {block: value}} and ``guards`` {block: {displacement, cosine}}:
        equal laws do not make a block the identity, a small displacement does.
    """
    model = model.to(device).eval()
    calibration = subset(data.train, params.samples, params.seed)
    statistics = measure_blocks(
        model,
        blocks,
        (x for x, _ in batches(calibration, BATCH, mean=data.mean, std=data.std, device=device)),
        n_projections=params.projections,
        seed=params.seed,
    )
    evidence = Evidence(statistics, _accuracy_drops(model, blocks, data, device), params.seed)
    return {
        "scores": {name: criterion(evidence) for name, criterion in CRITERIA.items()},
        "guards": {
            name: {key: asdict(s)[key] for key in ("displacement", "cosine")}
            for name, s in statistics.items()
        },
    }


def _accuracy_drops(
    model: nn.Module, blocks: Sequence[str], data: Dataset, device: torch.device
) -> dict[str, float]:
    """Return the points of validation accuracy that each block is worth by itself."""

    def validate(network: nn.Module) -> float:
        loader = batches(data.validation, BATCH, mean=data.mean, std=data.std, device=device)
        return accuracy_pct(network, loader)

    whole = validate(model)
    return {
        name: whole - validate(bypass(model, [name])) for name in progress(blocks, "leave one out")
    }
