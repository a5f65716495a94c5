"""The protocol on simulated clocks: warm-up, order of turns, drift, percentiles."""

import gc
import itertools
import time

import numpy as np
import pytest

from pipeline.params import WarmUp
from pipeline.timing import (
    latency,
    measure_interleaved,
    no_garbage_collection,
    settle,
    stopwatch,
)

HOW = WarmUp(window=5, within_pct=5.0, max_calls=100)


def plays(durations_ms):
    """Return a timer that takes these durations in turn."""
    remaining = iter(durations_ms)
    return lambda: next(remaining)


def test_a_stopwatch_tells_milliseconds():
    assert 20 <= stopwatch(lambda: time.sleep(0.02))() < 500


def test_warmup_ends_once_a_falling_clock_has_become_flat():
    """Kernels are chosen and caches filled: 40 ms falls to 10 ms within some 30 calls."""
    falling = [10 + 30 * 0.88**call for call in range(200)]
    settled = settle(plays(falling), HOW)
    assert settled.stable
    assert 30 <= settled.calls <= 60
    assert falling[settled.calls] < 10.5, "stopped while still falling"


def test_a_steady_engine_needs_three_windows():
    assert settle(plays([7.0] * 15), HOW).calls == 15


def test_single_outliers_do_not_prolong_the_warmup():
    noisy = [70.0 if call % 5 == 3 else 7.0 for call in range(100)]
    assert settle(plays(noisy), HOW).calls == 15


def test_two_windows_that_agree_by_chance_in_a_fall_are_not_enough():
    windows = [40.0, 20.0, 20.5, 10.0, 10.1, 9.9]
    settled = settle(plays(np.repeat(windows, 5)), HOW)
    assert (settled.calls, settled.stable) == (30, True)


def test_an_engine_that_never_settles_is_given_up_and_says_so():
    """A device that throttles: 10 % slower with every window."""
    slowing = [1.1 ** (call / 5) for call in range(200)]
    settled = settle(plays(slowing), WarmUp(window=5, within_pct=5.0, max_calls=52))
    assert (settled.calls, settled.stable) == (50, False)


def test_garbage_waits_until_the_timing_is_over():
    assert gc.isenabled()
    with pytest.raises(RuntimeError), no_garbage_collection():
        assert not gc.isenabled()
        raise RuntimeError("out of memory")
    assert gc.isenabled()


def called(keys, **how):
    """Return the keys in the order in which they were called."""
    calls = []

    def timer(key):
        return lambda: calls.append(key) or 1.0

    measure_interleaved({key: timer(key) for key in keys}, **how)
    return calls


def test_every_round_times_every_engine_in_another_order():
    rounds, repeats = 12, 3
    calls = called("abcd", rounds=rounds, repeats=repeats)
    turn = 1 + repeats  # the first call is not timed
    assert len(calls) == rounds * 4 * turn
    orders = []
    for start in range(0, len(calls), 4 * turn):
        in_turn = calls[start : start + 4 * turn]
        orders.append(tuple(in_turn[::turn]))
        assert in_turn == [key for key in orders[-1] for _ in range(turn)]
        assert sorted(orders[-1]) == list("abcd")
    assert len(set(orders)) > 6
    assert {order[0] for order in orders} == set("abcd"), "some engine never comes first"


def test_orders_are_the_same_in_every_measurement():
    assert called("abc", rounds=10, repeats=1) == called("abc", rounds=10, repeats=1)


def test_the_first_call_of_a_turn_is_not_counted():
    """It finds the caches full of another network."""
    timers = {key: plays(itertools.cycle([100.0, 1.0, 2.0])) for key in "ab"}
    durations = measure_interleaved(timers, rounds=4, repeats=2)
    np.testing.assert_array_equal(durations["a"], [[1.0, 2.0]] * 4)
    np.testing.assert_array_equal(durations["b"], [[1.0, 2.0]] * 4)


def test_drift_hits_all_engines_alike():
    """A machine that slows down steadily must not favour the engine that is listed first."""
    now = itertools.count()

    def timer() -> float:
        return 1.0 + 0.01 * next(now)  # 1 % slower with every call

    durations = measure_interleaved(dict.fromkeys("abc", timer), rounds=60, repeats=1)
    p50s = [latency(taken).p50 for taken in durations.values()]
    assert max(p50s) / min(p50s) < 1.05


def test_percentiles_are_those_of_all_calls():
    durations = np.random.default_rng(0).exponential(5, (20, 5))
    found = latency(durations)
    expected = np.percentile(durations, [50, 90, 99])
    np.testing.assert_allclose([found.p50, found.p90, found.p99], expected)
    assert found.samples == 100
    low, high = found.p50_ci
    assert low < found.p50 < high
