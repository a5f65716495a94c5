"""Accuracy of anything that maps images to logits."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Forward = Callable[[Float[Tensor, "_ c h w"]], Float[Tensor, "_ k"]]
Batches = Iterable[tuple[Float[Tensor, "_ c h w"], Int64[Tensor, " _"]]]


def correct_and_total(forward: Forward, batches: Batches) -> tuple[int, int]:
    """Return how many images are classified correctly, and of how many.

    A module must be in evaluation mode already.
    """
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            correct += int((forward(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return correct, total
