"""The criteria: how much would a removable unit be missed? Low means: remove first.

Distances are taken over the whole calibration set (METHOD: LaCoOT, arXiv 2406.08933, section 3);
Block Influence is that of ShortGPT (arXiv 2403.03853).
"""

import copy
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from models.surgery import bypass
from models.units import Unit
from pipeline.activations import BlockStatistics, measure_blocks
from pipeline.data import Dataset, Split, batches, subset
from pipeline.evaluate import accuracy_pct
from pipeline.params import Score
from pipeline.progress import progress
from pipeline.recoverability import recoverability

BATCH = 256
LEARNING_BATCH = 64
JUDGED_IMAGES = 128  # on which sets of left-out blocks are compared
T = TypeVar("T")


class OnDemand(Mapping[str, T]):
    """Values by unit, all of them measured when the first is looked at; the names cost nothing."""

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
class Evidence:
    """What the criteria judge by, unit by unit in the order in which they run."""

    statistics: Mapping[str, BlockStatistics]  # distances and guards on training images
    validation: Mapping[str, BlockStatistics]  # the same on validation images
    accuracy_drop_pct: Mapping[str, float]  # validation points lost without the unit
    loss_recovered: Mapping[str, float]  # what it adds to the loss of a network trained without
    seed: int


def msw(evidence: Evidence) -> dict[str, float]:
    """Return the max-sliced Wasserstein distance of each block's input and output."""
    return {name: s.msw for name, s in evidence.statistics.items()}


def sliced(evidence: Evidence) -> dict[str, float]:
    """Return the sliced Wasserstein distance of each block's input and output."""
    return {name: s.sliced for name, s in evidence.statistics.items()}


def msw_validation(evidence: Evidence) -> dict[str, float]:
    """Return the max-sliced distance on validation images, by which the authors' code orders."""
    return {name: s.msw for name, s in evidence.validation.items()}


def zscore_percentile(evidence: Evidence) -> dict[str, float]:
    """Return |z| + percentile/100 of the distances on validation images.

    The authors' order for Swin, for comparison only: a distance far below the others has a large
    |z| as well, so the unit closest to the identity may go late.
    """
    distances = msw_validation(evidence)
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


def deepest_first(evidence: Evidence) -> dict[str, float]:
    """Return minus the position in the network: the authors' fixed order for ResNet."""
    return {name: -float(position) for position, name in enumerate(evidence.statistics)}


def block_influence(evidence: Evidence) -> dict[str, float]:
    """Return 1 − E cos(x, f(x)) of each block."""
    return {name: 1 - s.cosine for name, s in evidence.statistics.items()}


def leave_one_out(evidence: Evidence) -> dict[str, float]:
    """Return the points of validation accuracy lost when the block alone is removed."""
    return dict(evidence.accuracy_drop_pct)


def recovered(evidence: Evidence) -> dict[str, float]:
    """Return what each block adds to the loss once the network was trained to do without some."""
    return dict(evidence.loss_recovered)


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
) -> Evidence:
    """Return the evidence on the units of a network; what no criterion asks for is not measured.

    Args:
        model: the network, whole or already shallow.
        units: what can still be removed of it.
        data: the calibration set is drawn from train; the order of the official mode and
            leave-one-out look at validation.
        params: the `score` section.
        device: where to run.
        together: how many units are to go together, for `recoverability`; None, or all of them, of
            which there is but one set: half of them.
    """
    model = model.to(device).eval()
    names = [unit.name for unit in units]
    half = (len(names) + 1) // 2

    def measure(split: Split) -> dict[str, BlockStatistics]:
        sample = subset(split, params.samples, params.seed)
        loader = batches(sample, BATCH, mean=data.mean, std=data.std, device=device)
        return measure_blocks(
            model,
            units,
            (images for images, _ in loader),
            n_projections=params.projections,
            seed=params.seed,
        )

    return Evidence(
        statistics=OnDemand(names, lambda: measure(data.train)),
        validation=OnDemand(names, lambda: measure(data.validation)),
        accuracy_drop_pct=OnDemand(names, lambda: _accuracy_drops(model, names, data, device)),
        loss_recovered=OnDemand(
            names,
            lambda: _losses_recovered(
                copy.deepcopy(model),
                names,
                data,
                params,
                together=together if together and together < len(names) else half,
            ),
        ),
        seed=params.seed,
    )


def _accuracy_drops(
    model: nn.Module, names: Sequence[str], data: Dataset, device: torch.device
) -> dict[str, float]:
    """Return the points of validation accuracy that each unit is worth by itself."""

    def validate(network: nn.Module) -> float:
        loader = batches(data.validation, BATCH, mean=data.mean, std=data.std, device=device)
        return accuracy_pct(network, loader)

    whole = validate(model)
    return {
        name: whole - validate(bypass(model, [name])) for name in progress(names, "leave one out")
    }


def _losses_recovered(
    model: nn.Module, names: Sequence[str], data: Dataset, params: Score, *, together: int
) -> dict[str, float]:
    """Train `model` on without sets of units, on training images; judge it on others of them."""
    device = next(model.parameters()).device
    sample = subset(data.train, JUDGED_IMAGES + params.recovery_images, params.seed)
    judged, learned = (
        Split(sample.images[rows], sample.labels[rows])
        for rows in (slice(JUDGED_IMAGES), slice(JUDGED_IMAGES, None))
    )
    options: Any = {"mean": data.mean, "std": data.std, "device": device}
    steps = progress(
        batches(learned, LEARNING_BATCH, **options) if len(learned) else (),
        "recoverability",
        total=-(-len(learned) // LEARNING_BATCH),
    )
    return recoverability(
        model,
        names,
        steps,
        list(batches(judged, BATCH, **options)),
        size=together,
        learning_rate=params.recovery_learning_rate,
        seed=params.seed,
    )
