"""Accuracy of anything that maps images to logits, and batch-norm statistics re-estimated."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Forward = Callable[[Float[Tensor, "_ c h w"]], Float[Tensor, "_ k"]]
Batches = Iterable[tuple[Float[Tensor, "_ c h w"], Int64[Tensor, " _"]]]


def accuracy_pct(forward: Forward, batches: Batches) -> float:
    """Return the top-1 accuracy in percent of `forward` over labelled batches.

    A module must be in evaluation mode already.
    """
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            correct += int((forward(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return 100 * correct / total


def reestimate_batch_norm(model: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of every batch norm by averages over `batches`, in place.

    Everything else stays in evaluation mode, so dropout and drop path keep out of it. A network
    without batch norm is left as it is.
    """
    norms = _batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    with torch.no_grad():
        for images, _ in batches if norms else ():
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether there are running statistics to re-estimate."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
