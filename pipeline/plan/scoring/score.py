"""Score every removable unit by every criterion of `pipeline.plan.scoring.criteria`."""

import torch
from torch import nn

from models.unit_selection import Selection
from pipeline.core.params import Method, Score
from pipeline.data.dataset import Dataset
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.plan.scoring.records import Guard, ScoredUnit, ScoreMetrics


def score(
    variant: str,
    model: nn.Module,
    selection: Selection,
    data: Dataset,
    *,
    params: Score,
    method: Method,
    device: torch.device,
) -> ScoreMetrics:
    """Score the units that can be removed by every criterion.

    Args:
        variant: its name.
        model: its trained network.
        selection: the network's units by that method.
        data: what `gather` draws its images from.
        params: the `score` section.
        method: the variant's `method` section.
        device: where to run.
    """
    measures = gather(model, selection.removable, data, params, device)
    return ScoreMetrics(
        variant=variant,
        samples=min(params.samples, len(data.train)),
        mode=method.mode,
        unit=selection.unit,
        criterion=selection.criterion,
        blocks=[ScoredUnit(**vars(unit)) for unit in selection.units],
        scores={name: criterion(measures) for name, criterion in CRITERIA.items()},
        guards={n: Guard(s.displacement, s.cosine) for n, s in measures.statistics.items()},
    )
