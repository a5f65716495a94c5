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

from pipeline.benchmark.records import Interval
from pipeline.benchmark.timing.confidence import MEDIAN, QUIET, Rounds, quantile_interval
from pipeline.core.params import Benchmark, WarmUp
from pipeline.core.progress import progress

Key = TypeVar("Key", bound=Hashable)
Timer = Callable[[], float]  # makes one call, returns its ms

WINDOWS = 3  # successive ones whose medians must agree


@dataclass(frozen=True)
class Latency:
    """Percentiles of the durations of one callable, in ms.

    Attributes:
        quiet: the 20th percentile, which is what latencies are compared by.
        quiet_ci: its 95 % confidence interval; None where it was timed in one round only.
        p50_ci: likewise.
    """

    quiet: float
    p50: float
    p90: float
    p99: float
    samples: int
    quiet_ci: Interval | None
    p50_ci: Interval | None


@dataclass(frozen=True)
class Timed:
    """What the calls of one run took, in ms by round, and how it had warmed up before."""

    durations: Rounds
    warmup_calls: int
    warmed_up: bool  # whether durations had become stable


def stopwatch(run: Callable[[], object]) -> Timer:
    """Return the timer of a callable that returns only when its work is done."""

    def timer() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    return timer


def time_in_turn(timers: Mapping[Key, Timer], settings: Benchmark) -> dict[Key, Timed]:
    """Time all runs by the protocol: warm up each, then let them take turns in rounds."""
    with no_garbage_collection():
        warmups = {
            key: warm_up(timer, settings.warmup)
            for key, timer in progress(timers.items(), "warming up")
        }
        taken = measure_interleaved(timers, rounds=settings.rounds, repeats=settings.repeats)
    return {key: Timed(taken[key], *warmups[key]) for key in timers}


def warm_up(timer: Timer, how: WarmUp) -> tuple[int, bool]:
    """Call until the medians of three successive windows agree, or the calls are used up.

    They agree where the largest is at most ``how.within_pct`` percent above the smallest.

    Returns:
        The number of calls, and whether the medians agreed.
    """
    medians: deque[float] = deque(maxlen=WINDOWS)
    calls = 0
    while calls + how.window <= how.max_calls:
        medians.append(float(np.median([timer() for _ in range(how.window)])))
        calls += how.window
        if len(medians) == WINDOWS and max(medians) <= min(medians) * (1 + how.within_pct / 100):
            return calls, True
    return calls, False


def measure_interleaved(
    timers: Mapping[Key, Timer], *, rounds: int, repeats: int
) -> dict[Key, Rounds]:
    """Time all runs in turn: every round calls each of them 1 + `repeats` times, in a new order.

    The orders are random but always the same.

    Returns:
        Durations in ms, (rounds, repeats) for each run; row n of all comes from the same round.
    """
    durations: dict[Key, list[list[float]]] = {key: [] for key in timers}
    shuffle, order = random.Random(0), list(timers)
    for _ in progress(range(rounds), "timing", unit="round"):
        shuffle.shuffle(order)
        for key in order:
            timers[key]()
            durations[key].append([timers[key]() for _ in range(repeats)])
    return {key: np.array(taken) for key, taken in durations.items()}


def latency(durations: Rounds) -> Latency:
    """Return the percentiles of all calls, and how sure they are."""
    quiet, p50, p90, p99 = (float(p) for p in np.quantile(durations, [QUIET, MEDIAN, 0.9, 0.99]))
    quiet_ci, p50_ci = (quantile_interval(durations, quantile) for quantile in (QUIET, MEDIAN))
    return Latency(quiet, p50, p90, p99, durations.size, quiet_ci, p50_ci)


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


def measure(run: Callable[[], object], *, warmup: int, repeats: int) -> Latency:
    """Time `repeats` calls of `run`, after `warmup` calls that are not timed.

    `run` must return only when its work is done: a GPU has to be waited for. The interval takes
    the calls for independent of each other.
    """
    for _ in range(warmup):
        run()
    timer = stopwatch(run)
    with no_garbage_collection():
        durations = np.array([[timer()] for _ in range(repeats)])
    return latency(durations)
