"""Accuracy of anything that maps images to logits, and batch-norm statistics re-estimated."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.distributed import sum_over_processes, world_size

Forward = Callable[[Float[Tensor, "_ c h w"]], Float[Tensor, "_ k"]]
Batches = Iterable[tuple[Float[Tensor, "_ c h w"], Int64[Tensor, " _"]]]


def accuracy_pct(forward: Forward, batches: Batches) -> float:
    """Return the top-1 accuracy in percent of `forward` over labelled batches.

    A module must be in evaluation mode already.
    """
    correct, total = _counts(forward, batches)
    return 100 * correct / total


def shared_accuracy_pct(forward: Forward, batches: Batches, device: torch.device) -> float:
    """Return what `accuracy_pct` does for the batches of all processes, each passing its part."""
    counts = torch.tensor(_counts(forward, batches), device=device)
    correct, total = sum_over_processes(counts).tolist()
    return 100 * float(correct) / float(total)


def _counts(forward: Forward, batches: Batches) -> tuple[int, int]:
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            correct += int((forward(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return correct, total


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


def average_batch_norm(model: nn.Module) -> None:
    """Give every process the mean of the running statistics that each kept of its own images."""
    for norm in _batch_norms(model):
        for kept in (norm.running_mean, norm.running_var):
            if kept is not None:
                kept.copy_(sum_over_processes(kept) / world_size())


def has_batch_norm(model: nn.Module) -> bool:
    """Say whether there are running statistics to re-estimate."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
