"""Axes of the plots: where a value lies, in percent of the plot's width or height."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

MARGIN = 0.06  # of the span, on both sides
MOST_TICKS = 7
LOG_STEPS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,))  # the first that is not too many


@dataclass(frozen=True)
class Tick:
    """A line of the grid: what it says and where it is."""

    text: str
    at: float


@dataclass(frozen=True)
class Axis:
    """A range of values, drawn linearly or by ratio."""

    low: float
    high: float
    ratio: bool
    ticks: list[Tick]

    def at(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 100 at the high one."""
        return _at(value, self.low, self.high, self.ratio)


def linear_axis(values: Iterable[float], *, whole: bool = False) -> Axis:
    """Return an axis on which equal differences are equally far apart.

    Args:
        values: what it must show.
        whole: whether they are counts, and ticks no fractions.
    """
    known = sorted(values)
    margin = (known[-1] - known[0]) * MARGIN or 1.0
    low, high = known[0] - margin, known[-1] + margin
    locator = MaxNLocator(MOST_TICKS, steps=[1, 2, 5, 10], integer=whole)
    return _axis(low, high, locator.tick_values(low, high), ratio=False)


def ratio_axis(values: Iterable[float]) -> Axis:
    """Return an axis on which equal ratios are equally far apart; all values are positive."""
    known = sorted(values)
    margin = (known[-1] / known[0]) ** MARGIN if known[-1] > known[0] else 1.5
    low, high = known[0] / margin, known[-1] * margin
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in LOG_STEPS:
        ticks = [step * 10**k for k in decades for step in steps if low <= step * 10**k <= high]
        if len(ticks) <= MOST_TICKS:
            break
    if len(ticks) < 2:
        ticks = list(MaxNLocator(4).tick_values(low, high))
    return _axis(low, high, ticks, ratio=True)


def _axis(low: float, high: float, ticks: Iterable[float], ratio: bool) -> Axis:
    inside = [tick for tick in ticks if low <= tick <= high]
    return Axis(low, high, ratio, [Tick(f"{t:.6g}", _at(t, low, high, ratio)) for t in inside])


def _at(value: float, low: float, high: float, ratio: bool) -> float:
    if ratio:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 100 * (value - low) / (high - low)
