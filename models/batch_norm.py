"""Batch norms with running statistics, and these re-estimated."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.evaluation import Batches
from models.hooks import hooked


def reestimate_batch_norm(model: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of every batch norm by those of all images, in place.

    Batches count by their images, and the variance is also that between batches: the first norm
    has the statistics of one batch of all. Everything else stays in evaluation mode, so dropout
    and drop path are off. A network without batch norm is left as it is.
    """
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    seen: dict[nn.Module, int] = defaultdict(int)  # values per channel
    before: dict[nn.Module, Tensor] = {}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()

    def enter(_: str, norm: Any, args: tuple[Tensor, ...], __: Any) -> None:
        values = args[0].numel() // args[0].shape[1]
        seen[norm] += values
        norm.momentum = values / seen[norm]  # the share of this batch in the average
        before[norm] = norm.running_mean.clone()

    def leave(_: str, norm: Any, __: Any, ___: Any) -> None:
        # With a share m, the mean moves by m·d; to the variance belongs m·(1 − m)·d².
        moved = (norm.running_mean - before[norm]).square()
        norm.running_var += moved * (1 - norm.momentum) / norm.momentum

    names = [name for name, module in model.named_modules() if module in set(norms)]
    with torch.no_grad(), hooked(model, names, on_enter=enter, on_leave=leave):
        for images, _ in batches if norms else ():
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
