"""The criteria: how dispensable is a removable unit? Low means: remove first.

Distances are taken over the whole calibration set (METHOD: LaCoOT, arXiv 2406.08933, section 3);
Block Influence is that of ShortGPT (arXiv 2403.03853).
"""

import copy
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from models.surgery import bypass
from models.units import Unit
from pipeline.core.params import Score
from pipeline.core.progress import progress
from pipeline.data.dataset import Dataset, Split
from pipeline.distances.features import BlockStatistics, measure_blocks
from pipeline.plan.scoring.recoverability import recoverability

TRAINING_BATCH = 64
HELD_OUT_IMAGES = 128  # on which losses without sets of blocks are compared
T = TypeVar("T")


class OnDemand(Mapping[str, T]):
    """Values by unit, all of them measured when the first is read; the names cost nothing."""

    def __init__(self, names: Sequence[str], measure: Callable[[], Mapping[str, T]]) -> None:
        self._names = names
        self._measure = cache(measure)

    def __getitem__(self, name: str) -> T:
        return self._measure()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class BlockMeasures:
    """What the criteria score by, unit by unit in the order in which they run."""

    statistics: Mapping[str, BlockStatistics]  # distances and guards on training images
    validation: Mapping[str, BlockStatistics]  # the same on validation images
    accuracy_drop_pct: Mapping[str, float]  # validation points lost without the unit
    loss_after_training: Mapping[str, float]  # added without it, once trained without some units
    seed: int


def msw(measures: BlockMeasures) -> dict[str, float]:
    """Return the max-sliced Wasserstein distance of each block's input and output."""
    return {name: s.msw for name, s in measures.statistics.items()}


def sliced(measures: BlockMeasures) -> dict[str, float]:
    """Return the sliced Wasserstein distance of each block's input and output."""
    return {name: s.sliced for name, s in measures.statistics.items()}


def msw_validation(measures: BlockMeasures) -> dict[str, float]:
    """Return the max-sliced distance on validation images, by which the authors' code orders."""
    return {name: s.msw for name, s in measures.validation.items()}


def zscore_percentile(measures: BlockMeasures) -> dict[str, float]:
    """Return |z| + percentile/100 of the distances on validation images.

    The authors' order for Swin, for comparison only: a distance far below the others has a large
    |z| as well, so the unit closest to the identity may be removed late.
    """
    distances = msw_validation(measures)
    values = list(distances.values())
    mean, deviation = statistics.fmean(values or [0.0]), statistics.pstdev(values or [0.0])

    def percentile(value: float) -> float:
        """Return the mean rank of `value` and what equals it, in percent of all ranks."""
        below, upto = (sum(v < value for v in values), sum(v <= value for v in values))
        return 100 * (below + upto + 1) / (2 * len(values))

    return {
        name: (abs(value - mean) / deviation if deviation else 0.0) + percentile(value) / 100
        for name, value in distances.items()
    }


def deepest_first(measures: BlockMeasures) -> dict[str, float]:
    """Return minus the position in the network: the authors' fixed order for ResNet."""
    return {name: -float(position) for position, name in enumerate(measures.statistics)}


def block_influence(measures: BlockMeasures) -> dict[str, float]:
    """Return 1 − E cos(x, f(x)) of each block."""
    return {name: 1 - s.cosine for name, s in measures.statistics.items()}


def leave_one_out(measures: BlockMeasures) -> dict[str, float]:
    """Return the points of validation accuracy lost when the block alone is removed."""
    return dict(measures.accuracy_drop_pct)


def recovered(measures: BlockMeasures) -> dict[str, float]:
    """Return what removing each block adds to the loss, after training without random sets."""
    return dict(measures.loss_after_training)


def at_random(measures: BlockMeasures) -> dict[str, float]:
    """Return seeded random scores: the baseline that every criterion has to beat."""
    generator = random.Random(measures.seed)
    return {name: generator.random() for name in measures.statistics}


CRITERIA: dict[str, Callable[[BlockMeasures], dict[str, float]]] = {
    "msw": msw,
    "sliced": sliced,
    "block_influence": block_influence,
    "random": at_random,
    "leave_one_out": leave_one_out,
    "recoverability": recovered,
    "msw_validation": msw_validation,
    "deepest_first": deepest_first,
    "zscore_percentile": zscore_percentile,
}


def gather(
    model: nn.Module,
    units: Sequence[Unit],
    data: Dataset,
    params: Score,
    device: torch.device,
    *,
    together: int | None = None,
) -> BlockMeasures:
    """Return the measures of a network's units; what no criterion reads is not measured.

    Args:
        model: the network, whole or already shallow.
        units: what can still be removed of it.
        data: the calibration set is drawn from train; the order of the official mode and
            leave-one-out read validation.
        params: the `score` section.
        device: where to run.
        together: how many units are removed together, for `recoverability`; half of them if None,
            or if it is all of them, of which there is but one set.
    """
    model = model.to(device).eval()
    names = [unit.name for unit in units]
    size = together if together and together < len(names) else (len(names) + 1) // 2

    def measure(split: Split) -> dict[str, BlockStatistics]:
        sample = split.sample(params.samples, params.seed)
        images = (x for x, _ in data.batches(sample, device=device))
        return measure_blocks(
            model, units, images, n_projections=params.projections, seed=params.seed
        )

    def train_without_sets() -> dict[str, float]:
        return _losses_after_training(copy.deepcopy(model), names, data, params, size=size)

    return BlockMeasures(
        statistics=OnDemand(names, lambda: measure(data.train)),
        validation=OnDemand(names, lambda: measure(data.validation)),
        accuracy_drop_pct=OnDemand(names, lambda: _accuracy_drops(model, names, data, device)),
        loss_after_training=OnDemand(names, train_without_sets),
        seed=params.seed,
    )


def _accuracy_drops(
    model: nn.Module, names: Sequence[str], data: Dataset, device: torch.device
) -> dict[str, float]:
    """Return the points of validation accuracy lost without each unit alone."""

    whole = data.validation_accuracy_pct(model, device)
    return {
        name: whole - data.validation_accuracy_pct(bypass(model, [name]), device)
        for name in progress(names, "leave one out")
    }


def _losses_after_training(
    model: nn.Module, names: Sequence[str], data: Dataset, params: Score, *, size: int
) -> dict[str, float]:
    """Train `model` on without sets of units; compare losses on training images held out."""
    device = next(model.parameters()).device
    sample = data.train.sample(HELD_OUT_IMAGES + params.recovery_images, params.seed)
    single = len(sample) == HELD_OUT_IMAGES + 1  # batch norm cannot learn from it: it is judged by
    held_out, training = sample[: HELD_OUT_IMAGES + single], sample[HELD_OUT_IMAGES + single :]
    batch = min(TRAINING_BATCH, data.evaluation_batch)
    steps = progress(
        data.batches(training, batch, device=device) if len(training) else (),
        "recoverability",
        total=-(-len(training) // batch),
    )
    return recoverability(
        model,
        names,
        steps,
        list(data.batches(held_out, device=device)),
        size=size,
        learning_rate=params.recovery_learning_rate,
        seed=params.seed,
    )
