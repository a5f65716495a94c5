"""What an epoch learns from and is validated on, by its settings and number; divergence."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn

from models.errors import ShoalError
from models.units import Unit
from pipeline.core.distributed import own_share
from pipeline.core.params import Train
from pipeline.data.dataset import Dataset
from pipeline.distances.features import measure_blocks
from pipeline.train.augment import augmentation, mixing

MONITORED_IMAGES = 1024  # on which the blocks are measured
LARGEST_WEIGHT = 1e6  # of a parameter; a network can have the same outputs with weights of 1e25

Rows = Int64[Tensor, " k"]


def seed(params: Train, epoch: int, purpose: int) -> int:
    """Return a seed of its own for each purpose in each epoch."""
    return (params.seed * 1_000_003 + epoch) * 10 + purpose


def rows(data: Dataset, params: Train, epoch: int) -> Rows:
    """Return which images an epoch learns from: all, or as many as it may see."""
    every, wanted = data.train, params.images_per_epoch
    if wanted is None:
        return torch.arange(len(every))
    return every.draw(wanted, seed(params, epoch, 4))


def training_batches(
    data: Dataset, params: Train, epoch: int, chosen: Rows, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented images with their labels, which Mixup and CutMix make shares.

    Each process gets its part of every batch.
    """
    generator = Generator().manual_seed(seed(params, epoch, 2))
    loader = data.batches(
        data.train,
        params.batch_size,
        device=device,
        generator=generator,
        augment=augmentation(params),
        rows=chosen,
        share=own_share(),
    )
    mix = mixing(params, len(data.classes))
    if mix is None:
        return loader
    return (mix(images, labels, generator) for images, labels in loader)


def validated(
    model: nn.Module,
    data: Dataset,
    units: Sequence[Unit],
    device: torch.device,
    n_projections: int,
) -> tuple[float, dict[str, float]]:
    """Return the validation accuracy in percent, and each unit's distance on validation images.

    Processes share the images of the accuracy; on the few others each measures by itself.
    """
    model.eval()
    accuracy = data.validation_accuracy_pct(model, device, own_share())
    monitored = data.validation.sample(MONITORED_IMAGES)
    statistics = measure_blocks(
        model,
        units,
        (images for images, _ in data.batches(monitored, device=device)),
        n_projections=n_projections,
        seed=0,
    )
    return accuracy, {name: measured.msw for name, measured in statistics.items()}


def require_logits(output: object, images: int, classes: int, model: nn.Module) -> None:
    """Raise `ShoalError` where a network does not give each image a number for each class."""
    if isinstance(output, Tensor) and output.shape == (images, classes):
        return
    what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ShoalError(
        f"{type(model).__name__} gives {what} for {images} images and {classes} classes, and not "
        f"logits ({images}, {classes}); leave out of model.options what makes another kind of "
        "network of it, such as features_only or aux_logits"
    )


class DivergedError(ShoalError):
    """Loss, weights or distances of an epoch are not finite, or weights beyond all reason."""


def require_finite(
    values: Mapping[str, float | Tensor], epoch: int, params: Train, checkpoint: Path | None
) -> None:
    """Raise `DivergedError` where an epoch did not end well.

    A loss that was finite up to the last step leaves weights that need not be.

    Args:
        values: what has to be finite, by its name in the message.
        epoch: from 1.
        params: what is to be lowered.
        checkpoint: the state after the epoch before, where another training can start from it.
    """
    what = next(filter(None, (_not_finite(name, value) for name, value in values.items())), None)
    if what is None:
        return
    lower = f"lower learning_rate (now {params.learning_rate})"
    if params.penalty.weight:
        lower += f" or penalty.lambda (now {params.penalty.weight})"
    good = "no epoch ended well"
    if epoch > 1:
        good = f"epoch {epoch - 1} was the last good one"
        good += f": to go on from it, set model.weights to {checkpoint}" if checkpoint else ""
    raise DivergedError(f"{what} in epoch {epoch}; {lower}; {good}")


def _not_finite(name: str, value: float | Tensor) -> str | None:
    if not isinstance(value, Tensor):
        return None if math.isfinite(value) else f"{name} is {value}"
    if not value.isfinite().all():
        return f"{name} are not finite"
    beyond = isinstance(value, nn.Parameter) and (value.abs() > LARGEST_WEIGHT).any()
    return f"{name} are beyond {LARGEST_WEIGHT:,.0f}" if beyond else None
