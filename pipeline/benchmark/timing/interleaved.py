"""The protocol of every latency: warm up until stable, then time all runs in turn, in rounds.

A timer makes one call and returns its duration in ms, by the host's clock (`stopwatch`) or by the
device's. Runs take turns in rounds of random order, so that a machine that grows hot or busy slows
all of them alike. The first call of a turn finds the caches full of another network and threads
asleep or still spinning for it (docs/log.md), so it is not timed.
"""

import gc
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.bootstrap import Interval, Rounds, median_interval
from pipeline.params import WarmUp
from pipeline.progress import progress

Key = TypeVar("Key", bound=Hashable)
Timer = Callable[[], float]  # makes one call, returns its ms

WINDOWS = 3  # successive ones whose medians must agree


@dataclass(frozen=True)
class Latency:
    """Percentiles of the durations of one callable, in ms.

    `p50_ci` is the 95 % confidence interval of p50; None where it was timed in one round only.
    """

    p50: float
    p90: float
    p99: float
    samples: int
    p50_ci: Interval | None


@dataclass(frozen=True)
class Settled:
    """How a warm-up ended: after how many calls, and whether durations had become stable."""

    calls: int
    stable: bool


def stopwatch(run: Callable[[], object]) -> Timer:
    """Return the timer of a callable that returns only when its work is done."""

    def timer() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    return timer


def settle(timer: Timer, how: WarmUp) -> Settled:
    """Call until the medians of three successive windows agree, or the calls are used up.

    They agree where the largest is at most ``how.within_pct`` percent above the smallest.
    """
    medians: deque[float] = deque(maxlen=WINDOWS)
    calls = 0
    while calls + how.window <= how.max_calls:
        medians.append(float(np.median([timer() for _ in range(how.window)])))
        calls += how.window
        if len(medians) == WINDOWS and max(medians) <= min(medians) * (1 + how.within_pct / 100):
            return Settled(calls, stable=True)
    return Settled(calls, stable=False)


def measure_interleaved(
    timers: Mapping[Key, Timer], *, rounds: int, repeats: int
) -> dict[Key, Rounds]:
    """Time all runs in turn: every round calls each of them 1 + `repeats` times, in a new order.

    The orders are random but always the same.

    Returns:
        Durations in ms, (rounds, repeats) for each run; row n of all comes from the same round.
    """
    durations: dict[Key, list[list[float]]] = {key: [] for key in timers}
    for order in progress(_orders(list(timers), rounds), "timing", total=rounds, unit="round"):
        for key in order:
            timers[key]()
            durations[key].append([timers[key]() for _ in range(repeats)])
    return {key: np.array(taken) for key, taken in durations.items()}


def latency(durations: Rounds) -> Latency:
    """Return the percentiles of all calls, and how sure the median is."""
    p50, p90, p99 = (float(p) for p in np.percentile(durations, [50, 90, 99]))
    return Latency(p50, p90, p99, durations.size, median_interval(durations))


def _orders(keys: list[Key], rounds: int) -> Iterator[list[Key]]:
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(keys)
        yield list(keys)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect garbage before, and none meanwhile: it would fall into some calls and not others."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
