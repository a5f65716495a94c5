"""What a step was worth, in every case in which it can end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.verdict import sentence, verdict


def test_a_step_that_costs_accuracy_says_how_much_each_point_bought():
    found = verdict(8.0, 3.0, 91.5, 91.0, saved_ms_ci=(4.8, 5.2))
    assert found.word == "costs accuracy"
    assert (found.saved_ms, found.lost_points, found.ms_per_point) == (5.0, 0.5, 10.0)
    assert sentence("depth", found) == (
        "depth: 5.00 ms saved (2.67×), 0.50 points of accuracy lost: 10.00 ms per point"
    )


@pytest.mark.parametrize(("after_pct", "said"), [(91.5, "no accuracy lost"), (91.75, "gained")])
def test_a_faster_step_that_loses_nothing_is_free(after_pct, said):
    found = verdict(8.0, 3.0, 91.5, after_pct, saved_ms_ci=(4.8, 5.2))
    assert (found.word, found.ms_per_point) == ("free", None)
    assert sentence("depth", found).startswith("depth: free: 5.00 ms saved")
    assert said in sentence("depth", found)


def test_a_slower_step_is_warned_of():
    found = verdict(8.0, 9.5, 91.5, 91.4, saved_ms_ci=(-1.7, -1.2))
    assert (found.word, found.ms_per_point) == ("slower", None)
    assert sentence("precision", found) == (
        "precision: warning, this made it slower: 1.50 ms lost (0.84×), "
        "0.10 points of accuracy lost"
    )


@pytest.mark.parametrize("interval", [(-0.2, 0.3), (0.0, 0.1), (-0.1, 0.0)])
def test_a_saving_within_the_noise_is_none(interval):
    found = verdict(8.0, 7.95, 91.5, 91.0, saved_ms_ci=interval)
    assert (found.word, found.ms_per_point) == ("no faster", None)
    assert "warning, no faster within the noise" in sentence("both", found)


def test_without_an_interval_any_difference_counts():
    assert verdict(8.0, 7.9, 91.0, 91.0).word == "free"
    assert verdict(8.0, 8.1, 91.0, 91.0).word == "slower"
    assert verdict(8.0, 8.0, 91.0, 91.0).word == "no faster"


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0, 100), st.floats(0, 100))
def test_only_what_saves_and_loses_has_a_price(before_ms, after_ms, before_pct, after_pct):
    found = verdict(before_ms, after_ms, before_pct, after_pct)
    assert (found.ms_per_point is not None) == (after_ms < before_ms and after_pct < before_pct)
    assert found.times == pytest.approx(before_ms / after_ms)
    if found.ms_per_point is not None:
        assert found.ms_per_point * found.lost_points == pytest.approx(found.saved_ms)
