"""The optimiser and the learning-rate schedule that params.yaml names.

The schedules are own, not `torch.optim.lr_scheduler`: they go by the share of the training that is
done, so a checkpoint need not hold them, and parameters that are added later follow them too.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from pipeline.core.params import Train


def optimizer(model: nn.Module, params: Train) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum, or Adam, over all parameters."""
    own = {"momentum": params.momentum} if params.optimizer == "sgd" else {}
    return OPTIMIZERS[params.optimizer](
        model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, **own
    )


def constant(done: float, params: Train) -> float:
    """Keep the rate."""
    return 1.0


def cosine(done: float, params: Train) -> float:
    """Fall to 0 along half a cosine once the warm-up is over."""
    after_warmup = (done - params.warmup_fraction) / (1 - params.warmup_fraction)
    return 0.5 * (1 + math.cos(math.pi * after_warmup))


def step(done: float, params: Train) -> float:
    """Drop tenfold at each milestone."""
    return 0.1 ** sum(done >= milestone for milestone in params.milestones)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}
SCHEDULES = {"constant": constant, "cosine": cosine, "step": step}


def learning_rate(done: float, params: Train) -> float:
    """Return the learning rate when the fraction `done` (0..1) of all steps lies behind."""
    if done < params.warmup_fraction:
        return params.learning_rate * done / params.warmup_fraction
    return params.learning_rate * SCHEDULES[params.schedule](done, params)
