"""Score every removable unit by every criterion of `pipeline.criteria`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from models.units import Unit
from pipeline.criteria import CRITERIA, gather
from pipeline.data import Dataset
from pipeline.params import Score


def score(
    model: nn.Module, units: Sequence[Unit], data: Dataset, params: Score, device: torch.device
) -> dict[str, Any]:
    """Score the units by every criterion.

    Args:
        model: the trained network.
        units: what can be removed of it.
        data: what `gather` draws its images from.
        params: the `score` section.
        device: where to run.

    Returns:
        ``scores`` {criterion: {unit: value}} and ``guards`` {unit: {displacement, cosine}}:
        equal laws do not make a unit the identity, a small displacement does.
    """
    evidence = gather(model, units, data, params, device)
    return {
        "scores": {name: criterion(evidence) for name, criterion in CRITERIA.items()},
        "guards": {
            name: {key: asdict(s)[key] for key in ("displacement", "cosine")}
            for name, s in evidence.statistics.items()
        },
    }
