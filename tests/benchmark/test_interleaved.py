"""The protocol on simulated clocks: warm-up, order of turns, drift, percentiles."""

import gc
import itertools
import time

import numpy as np
import pytest

from pipeline.benchmark.timing.interleaved import (
    latency,
    measure,
    measure_interleaved,
    no_garbage_collection,
    stopwatch,
    time_in_turn,
    warm_up,
)
from pipeline.core.params import Benchmark, WarmUp

HOW = WarmUp(window=5, within_pct=5.0, max_calls=100)


def plays(durations_ms):
    """Return a timer that takes these durations in turn."""
    remaining = iter(durations_ms)
    return lambda: next(remaining)


def test_a_stopwatch_returns_milliseconds():
    assert 20 <= stopwatch(lambda: time.sleep(0.02))() < 500


def test_warmup_ends_once_a_falling_clock_has_become_flat():
    """Kernels are chosen and caches filled: 40 ms falls to 10 ms within some 30 calls."""
    falling = [10 + 30 * 0.88**call for call in range(200)]
    calls, stable = warm_up(plays(falling), HOW)
    assert stable
    assert 30 <= calls <= 60
    assert falling[calls] < 10.5, "stopped while still falling"


@pytest.mark.parametrize("outlier_ms", [7.0, 70.0])
def test_a_steady_engine_needs_three_windows_and_single_outliers_no_more(outlier_ms):
    timer = plays([outlier_ms if call % 5 == 3 else 7.0 for call in range(15)])
    assert warm_up(timer, HOW) == (15, True)


def test_two_windows_that_agree_by_chance_in_a_fall_are_not_enough():
    windows = [40.0, 20.0, 20.5, 10.0, 10.1, 9.9]
    assert warm_up(plays(np.repeat(windows, 5)), HOW) == (30, True)


def test_an_engine_that_never_becomes_stable_is_timed_all_the_same():
    """A device that throttles: 10 % slower with every window."""
    slowing = [1.1 ** (call / 5) for call in range(200)]
    how = WarmUp(window=5, within_pct=5.0, max_calls=52)
    assert warm_up(plays(slowing), how) == (50, False)


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
    assert calls == called("abcd", rounds=rounds, repeats=repeats), "the same in every measurement"
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


def test_the_first_call_of_a_turn_is_not_counted():
    """It finds the caches full of another network."""
    timers = {key: plays(itertools.cycle([100.0, 1.0, 2.0])) for key in "ab"}
    durations = measure_interleaved(timers, rounds=4, repeats=2)
    np.testing.assert_array_equal(durations["a"], [[1.0, 2.0]] * 4)
    np.testing.assert_array_equal(durations["b"], [[1.0, 2.0]] * 4)


def test_all_are_warm_before_any_is_timed_and_no_garbage_is_collected():
    how = Benchmark(batch_sizes=[1], warmup=HOW, rounds=2, repeats=3)
    calls = []

    def timer(key):
        return lambda: calls.append((key, gc.isenabled())) or 1.0

    timed = time_in_turn({key: timer(key) for key in "ab"}, how)
    assert [key for key, _ in calls[:30]] == ["a"] * 15 + ["b"] * 15
    assert not any(enabled for _, enabled in calls)
    assert len(calls) == 30 + 2 * 2 * 4
    assert timed["b"].durations.shape == (2, 3)
    assert (timed["b"].warmup_calls, timed["b"].warmed_up) == (15, True)


def test_drift_hits_all_engines_alike():
    """A machine that slows down steadily must not favour the engine that is listed first."""
    now = itertools.count()

    def timer() -> float:
        return 1.0 + 0.01 * next(now)  # 1 % slower with every call

    durations = measure_interleaved(dict.fromkeys("abc", timer), rounds=60, repeats=1)
    p50s = [latency(taken).p50 for taken in durations.values()]
    assert max(p50s) / min(p50s) < 1.05


def test_percentiles_are_those_of_the_timed_calls(monkeypatch):
    durations_ms = np.random.default_rng(0).exponential(5, 101)
    ends = [np.int64(ms * 1e6) for ms in durations_ms]
    clock = itertools.chain.from_iterable((0, end) for end in ends)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    latency = measure(lambda: None, warmup=3, repeats=101)
    expected = np.percentile(durations_ms, [50, 90, 99])
    np.testing.assert_allclose([latency.p50, latency.p90, latency.p99], expected, rtol=1e-5)
    assert latency.samples == 101
    low, high = latency.p50_ci
    assert low < latency.p50 < high


def test_warmup_calls_are_made_first_and_not_counted():
    pauses, enabled = iter([0.05, 0.05] + 20 * [0.0]), []

    def run():
        time.sleep(next(pauses))
        enabled.append(gc.isenabled())

    latency = measure(run, warmup=2, repeats=20)
    assert next(pauses, None) is None, "a call is missing"
    assert not any(enabled[2:]), "garbage is collected before and after"
    assert gc.isenabled()
    assert latency.samples == 20
    assert latency.p50 < 20
