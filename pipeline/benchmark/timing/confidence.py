"""How sure a latency is: confidence intervals by resampling whole rounds of calls.

What is compared is the *quiet* latency, the 20th percentile of all calls: what a call takes while
nothing disturbs it. Where other work takes the cores half of the time, calls are of two kinds, and
the median is of either by chance (docs/decisions/0019-one-run-decides.md).

Calls within a round share the state of the machine, so rounds are drawn, not calls: the cluster
bootstrap, with percentile intervals (Davison and Hinkley, Bootstrap Methods and their Application,
sections 3.8 and 5.3). Draws are the same in every run.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from pipeline.benchmark.records import Interval

QUIET, MEDIAN = 0.2, 0.5
RESAMPLES = 2000
CONFIDENCE_PCT = 95

Rounds = Float64[np.ndarray, "rounds repeats"]  # durations in ms; a row is one round
Drawn = Int64[np.ndarray, "... rounds"]  # numbers of rounds


def quiet(durations: Rounds) -> float:
    """Return the quiet latency in ms."""
    return float(np.quantile(durations, QUIET))


def quantile_interval(durations: Rounds, quantile: float) -> Interval | None:
    """Return the interval of a quantile of all calls; None of fewer than two rounds."""
    return _interval(len(durations), lambda drawn: _quantiles(durations, drawn, quantile))


def saving_interval(before: Rounds, after: Rounds) -> Interval | None:
    """Return the interval of quiet(before) − quiet(after); None of fewer than two rounds.

    Row n of both must come from the same round: the same rounds are drawn of both, so that what a
    round did to the machine cancels out.
    """
    assert len(before) == len(after), "runs of the same rounds"
    return _interval(
        len(before), lambda drawn: _quantiles(before, drawn) - _quantiles(after, drawn)
    )


def ratio_interval(durations: Rounds, reference: Rounds) -> Interval | None:
    """Return the interval of quiet(durations) / quiet(reference), from the same rounds."""
    assert len(durations) == len(reference), "runs of the same rounds"
    return _interval(
        len(durations), lambda drawn: _quantiles(durations, drawn) / _quantiles(reference, drawn)
    )


def _interval(rounds: int, statistic: Callable[[Drawn], np.ndarray]) -> Interval | None:
    if rounds < 2:
        return None
    from scipy.stats import bootstrap  # takes a second

    found = bootstrap(
        (np.arange(rounds),),
        lambda drawn, axis: statistic(drawn),
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE_PCT / 100,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _quantiles(
    durations: Rounds, drawn: Drawn, quantile: float = QUIET
) -> Float64[np.ndarray, "..."]:
    calls = durations[drawn].reshape(*drawn.shape[:-1], -1)  # (..., rounds · repeats)
    found: np.ndarray = np.quantile(calls, quantile, axis=-1)
    return found
