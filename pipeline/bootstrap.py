"""How sure a median latency is: confidence intervals by resampling whole rounds of calls.

Calls within a round share the state of the machine, so rounds are drawn, not calls: the cluster
bootstrap, with percentile intervals (Davison and Hinkley, Bootstrap Methods and their Application,
sections 3.8 and 5.3). Draws are the same in every run.
"""

import numpy as np
from jaxtyping import Float64, Int64

RESAMPLES = 2000
CONFIDENCE_PCT = 95

Rounds = Float64[np.ndarray, "rounds repeats"]  # durations in ms; a row is one round
Interval = tuple[float, float]


def median_interval(durations: Rounds) -> Interval | None:
    """Return the confidence interval of the median of all calls; None of fewer than two rounds."""
    if len(durations) < 2:
        return None
    return _percentiles(_medians(durations, _draws(len(durations))))


def saving_interval(before: Rounds, after: Rounds) -> Interval | None:
    """Return the interval of median(before) − median(after); None of fewer than two rounds.

    Row n of both must come from the same round: the same rounds are drawn of both, so that what a
    round did to the machine cancels out.
    """
    assert len(before) == len(after), "runs of the same rounds"
    if len(before) < 2:
        return None
    draws = _draws(len(before))
    return _percentiles(_medians(before, draws) - _medians(after, draws))


def _draws(rounds: int) -> Int64[np.ndarray, "resamples rounds"]:
    return np.random.default_rng(0).integers(rounds, size=(RESAMPLES, rounds))


def _medians(
    durations: Rounds, draws: Int64[np.ndarray, "resamples rounds"]
) -> Float64[np.ndarray, " resamples"]:
    drawn = durations[draws].reshape(len(draws), -1)  # (resamples, rounds · repeats)
    medians: np.ndarray = np.median(drawn, axis=1)
    return medians


def _percentiles(medians: Float64[np.ndarray, " resamples"]) -> Interval:
    outside = (100 - CONFIDENCE_PCT) / 2
    low, high = np.percentile(medians, [outside, 100 - outside])
    return float(low), float(high)
