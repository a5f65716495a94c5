"""Intervals of latencies: coverage on simulated machines, order, and what they follow from."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.benchmark.timing.confidence import (
    MEDIAN,
    QUIET,
    quantile_interval,
    quiet,
    ratio_interval,
    saving_interval,
)

ROUNDS, REPEATS, TRIALS = 25, 4, 150


def machine(random: np.random.Generator, median_ms: float) -> np.ndarray:
    """Return durations of which every round has a state of its own; their median is known."""
    states = random.normal(0, 0.1, (ROUNDS, 1))
    jitter = random.normal(0, 0.05, (ROUNDS, REPEATS))
    return median_ms * np.exp(states + jitter)


def coverage_pct(hits: list[bool]) -> float:
    return 100 * sum(hits) / len(hits)


@pytest.mark.parametrize("quantile", [QUIET, MEDIAN])
def test_the_interval_holds_the_true_quantile_about_as_often_as_it_says(quantile: float):
    random = np.random.default_rng(0)
    true = 8.0 * np.exp(NormalDist(0, np.hypot(0.1, 0.05)).inv_cdf(quantile))
    intervals = [quantile_interval(machine(random, 8.0), quantile) for _ in range(TRIALS)]
    assert 88 <= coverage_pct([low <= true <= high for low, high in intervals]) <= 99


def test_what_is_compared_stays_where_another_process_takes_the_cores_half_of_the_time():
    random = np.random.default_rng(4)
    alone = machine(random, 8.0)
    shared = alone * np.where(random.permutation(ROUNDS)[:, None] < 13, 1.9, 1.0)
    assert quiet(shared) == pytest.approx(quiet(alone), rel=0.1)
    assert np.median(shared) > 1.3 * np.median(alone)


def test_the_interval_of_a_saving_holds_the_true_one_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    true = 1.5 * np.exp(NormalDist(0, np.hypot(0.3, 0.05)).inv_cdf(QUIET))
    hits = []
    for _ in range(TRIALS):
        states = np.exp(random.normal(0, 0.3, (ROUNDS, 1)))  # of the machine, the same for both
        before, after = (
            ms * states * np.exp(random.normal(0, 0.05, (ROUNDS, REPEATS))) for ms in (8.0, 6.5)
        )
        low, high = saving_interval(before, after)
        hits.append(low <= true <= high)
    assert 90 <= coverage_pct(hits) <= 99.5


def test_calls_of_one_round_count_as_one_look_at_the_machine():
    """Repeating calls within a round must not make the median look surer than the rounds do."""
    once = machine(np.random.default_rng(2), 8.0)[:, :1]
    low, high = quantile_interval(once, MEDIAN)
    low_often, high_often = quantile_interval(np.repeat(once, 20, axis=1), MEDIAN)
    assert high_often - low_often == pytest.approx(high - low, rel=0.15)


def test_what_a_round_did_to_the_machine_cancels_out_of_a_saving():
    states = np.random.default_rng(3).uniform(1, 2, (ROUNDS, 1))  # the machine is twice as slow
    before, after = np.repeat(states + 1.0, 3, axis=1), np.repeat(states, 3, axis=1)
    low, high = saving_interval(before, after)
    assert (low, high) == pytest.approx((1.0, 1.0))
    assert ratio_interval(2 * after, after) == pytest.approx((2.0, 2.0))
    low, high = quantile_interval(before, QUIET)
    assert high - low > 0.1


@given(arrays(np.float64, (6, 3), elements=st.floats(0.01, 1e4)))
@example(np.full((6, 3), 2560.0489070347703))
def test_an_interval_lies_within_the_durations_and_repeats(durations: np.ndarray):
    low, high = quantile_interval(durations, QUIET)
    rounding = 1e-12  # of what lies between two calls
    assert durations.min() * (1 - rounding) <= low <= high <= durations.max() * (1 + rounding)
    assert quantile_interval(durations, QUIET) == (low, high)


@given(arrays(np.float64, (5, 2), elements=st.floats(0.01, 100)), st.floats(0.1, 10))
def test_intervals_scale_with_the_unit_and_turn_round(durations: np.ndarray, scale: float):
    low, high = quantile_interval(durations, QUIET)
    assert quantile_interval(durations * scale, QUIET) == pytest.approx((low * scale, high * scale))
    other = durations[::-1] * 2
    low, high = saving_interval(durations, other)
    assert saving_interval(other, durations) == pytest.approx((-high, -low))


def test_one_round_gives_no_interval():
    single = np.ones((1, 30))
    assert quantile_interval(single, QUIET) is None
    assert saving_interval(single, single) is None
    assert ratio_interval(single, single) is None
