"""The optimiser and the learning-rate schedule that params.yaml names."""

import math

import torch
from torch import nn

from pipeline.params import Train


def sgd(model: nn.Module, params: Train) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum over all parameters."""
    return torch.optim.SGD(
        model.parameters(),
        params.learning_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
    )


def adam(model: nn.Module, params: Train) -> torch.optim.Optimizer:
    """Return Adam over all parameters."""
    return torch.optim.Adam(
        model.parameters(), params.learning_rate, weight_decay=params.weight_decay
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


OPTIMIZERS = {"sgd": sgd, "adam": adam}
SCHEDULES = {"constant": constant, "cosine": cosine, "step": step}


def learning_rate(done: float, params: Train) -> float:
    """Return the learning rate when the fraction `done` (0..1) of all steps lies behind."""
    if done < params.warmup_fraction:
        return params.learning_rate * done / params.warmup_fraction
    return params.learning_rate * SCHEDULES[params.schedule](done, params)
