"""A small network and settings to train it with, and how two trainings are compared."""

from collections.abc import Callable

import torch
from torch import nn

from models.units import Unit, block_units
from models.zoo import create
from pipeline.core.params import Train
from pipeline.train.records import EpochLog

TIMINGS = ("seconds", "images_per_s")


def settings(**changes: object) -> Train:
    values = {
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.05,
        "precision": "fp32",
        "flip": True,
        "crop_padding": 2,
        "penalty": {"lambda": 1.0, "projections": 8},
    }
    return Train.model_validate(values | changes)


def fresh() -> tuple[nn.Module, list[Unit]]:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    found = block_units(model, torch.zeros(2, 1, 32, 32))
    return model, [unit for unit in found if unit.removable]


class Stopped(Exception):  # noqa: N818 - what ends a training, as a signal does
    pass


def stop_after(epoch: int) -> Callable[[EpochLog], None]:
    """Return a `log` that ends the training once the epoch is in the checkpoint."""

    def log(entry: EpochLog) -> None:
        if entry["epoch"] == epoch:
            raise Stopped

    return log


def without_timings(history: list[EpochLog]) -> list[EpochLog]:
    return [{k: v for k, v in entry.items() if k not in TIMINGS} for entry in history]


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key
