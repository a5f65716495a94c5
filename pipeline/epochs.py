"""What an epoch learns from, and what it is looked at by: a function of its settings and number."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn

from models.units import Unit
from pipeline.activations import measure_blocks
from pipeline.augment import augmentation, mixing
from pipeline.data import Dataset, batches, drawn, subset
from pipeline.distributed import own_share
from pipeline.evaluate import shared_accuracy_pct
from pipeline.params import Train

MONITORED_IMAGES = 1024  # on which the blocks are measured
EVALUATION_BATCH = 256

Rows = Int64[Tensor, " k"]


def seed(params: Train, epoch: int, purpose: int) -> int:
    """Return a seed of its own for each purpose in each epoch."""
    return (params.seed * 1_000_003 + epoch) * 10 + purpose


def rows(data: Dataset, params: Train, epoch: int) -> Rows:
    """Return which images an epoch learns from: all, or as many as it may see."""
    every, wanted = data.train, params.images_per_epoch
    if wanted is None:
        return torch.arange(len(every))
    return drawn(every, wanted, seed(params, epoch, 4))


def training_batches(
    data: Dataset, params: Train, epoch: int, chosen: Rows, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented images with their labels, which Mixup and CutMix make shares.

    Each process gets its part of every batch.
    """
    generator = Generator().manual_seed(seed(params, epoch, 2))
    loader = batches(
        data.train,
        params.batch_size,
        mean=data.mean,
        std=data.std,
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
) -> dict[str, Any]:
    """Return the validation accuracy, and each unit's distance on fixed validation images.

    Processes share the images of the accuracy; on the few others each measures by itself.
    """
    model.eval()
    options: Any = {"mean": data.mean, "std": data.std, "device": device}
    whole = batches(data.validation, EVALUATION_BATCH, share=own_share(), **options)
    accuracy = shared_accuracy_pct(model, whole, device)
    monitored = subset(data.validation, MONITORED_IMAGES, seed=0)
    statistics = measure_blocks(
        model,
        units,
        (images for images, _ in batches(monitored, EVALUATION_BATCH, **options)),
        n_projections=n_projections,
        seed=0,
    )
    distances = {name: measured.msw for name, measured in statistics.items()}
    return {"val_accuracy_pct": accuracy, "distances": distances}
