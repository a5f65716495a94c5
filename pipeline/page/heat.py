"""Distance and displacement per block as heat maps over the epochs of training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.page.strips import in_order

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
STEPS = 10  # of colour
MOST_EPOCHS = 24  # columns; longer trainings are shown at evenly spaced epochs


@dataclass(frozen=True)
class Heat:
    """A value and its step of colour; None where the block was gone or nothing was measured."""

    value: float
    step: int


@dataclass(frozen=True)
class Block:
    """A row of the map."""

    name: str
    distances: list[Heat | None]  # of the epochs shown
    displacement: Heat | None


@dataclass(frozen=True)
class HeatMap:
    """A variant's blocks over its training."""

    variant: str
    epochs: list[int]
    of: int  # epochs in all
    blocks: list[Block]


def heat_maps(metrics: Mapping[str, Mapping[str, Metrics]]) -> list[HeatMap]:
    """Return a map per variant; the steps of colour go by ratio and mean the same in all maps.

    The distance is that of training, the displacement E‖f(x) − x‖ / E‖x‖ that of `score` after it.
    """
    distances = _Steps(
        value
        for own in metrics.values()
        for epoch in own["train"]["epochs"]
        for value in epoch["distances"].values()
    )
    displacements = _Steps(
        guard["displacement"]
        for own in metrics.values()
        for guard in own["score"]["guards"].values()
    )
    return [_heat_map(variant, own, distances, displacements) for variant, own in metrics.items()]


class _Steps:
    """Colours by the logarithm, from the smallest positive value to the largest."""

    def __init__(self, values: Iterable[float]) -> None:
        positive = [value for value in values if value > 0]
        self.low, self.high = (min(positive), max(positive)) if positive else (1.0, 1.0)

    def heat(self, value: float | None) -> Heat | None:
        if value is None:
            return None
        span = math.log(self.high / self.low)
        share = math.log(max(value, self.low) / self.low) / span if span else 0.0
        return Heat(value, min(STEPS - 1, int(STEPS * share)))


def _heat_map(
    variant: str, metrics: Mapping[str, Metrics], distances: _Steps, displacements: _Steps
) -> HeatMap:
    epochs = metrics["train"]["epochs"]
    shown = [epochs[i] for i in _evenly(len(epochs))]
    guards = metrics["score"]["guards"]
    measured = dict.fromkeys(name for epoch in epochs for name in epoch["distances"])
    names = in_order(measured, guards.keys() - measured.keys())
    blocks = [
        Block(
            name,
            [distances.heat(epoch["distances"].get(name)) for epoch in shown],
            displacements.heat(guards[name]["displacement"] if name in guards else None),
        )
        for name in names
    ]
    return HeatMap(variant, [epoch["epoch"] for epoch in shown], len(epochs), blocks)


def _evenly(count: int) -> Sequence[int]:
    """Return up to `MOST_EPOCHS` places among `count`, with the first and the last."""
    places = np.linspace(0, count - 1, min(count, MOST_EPOCHS))
    return [int(place) for place in places.round()]
