"""What a step saved, in every case in which it can end."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.benchmark.savings import judged, reference, sentence, verdicts
from pipeline.benchmark.timing.confidence import quiet


def proven(variant="dense", level=0, precision="fp32", val=91.5, test=0.0) -> ProvenEngine:
    """Return an engine; its test accuracy, which nothing is judged by, is nonsense."""
    at = Path("engine")
    return ProvenEngine(variant, level, precision, "onnxruntime", (), val, test, at, at)


def step(before_ms: float, after_ms: float, after_pct: float, noise: float = 0.01):
    """Return the verdict on level 1 against level 0."""
    noise_ms = noise * np.random.default_rng(0).normal(size=(25, 4))
    durations = {
        proven(): np.full((25, 4), before_ms),
        proven(level=1, val=after_pct): after_ms + noise_ms - quiet(noise_ms),
    }
    [found] = verdicts(durations, 8)
    return found


BEGIN = "dense level 0 fp32 → dense level 1 fp32, onnxruntime, depth: "


def test_a_step_that_costs_accuracy_has_a_price_per_point():
    found = step(8.0, 3.0, 91.0)
    assert (found.word, found.batch) == ("costs accuracy", 8)
    assert (found.saved_ms, found.lost_points, found.ms_per_point) == (5.0, 0.5, 10.0)
    low, high = found.saved_ms_ci
    assert low < 5.0 < high
    assert sentence(found) == (
        BEGIN + "5.00 ms saved (2.67×), 0.50 points of accuracy lost: 10.00 ms per point"
    )


@pytest.mark.parametrize(
    ("after_ms", "after_pct", "noise", "word", "text"),
    [
        (3.0, 91.5, 0.01, "free", "free: 5.00 ms saved (2.67×), no accuracy lost"),
        (3.0, 91.75, 0.01, "free", "free: 5.00 ms saved (2.67×), 0.25 points gained"),
        (
            *(9.5, 91.4, 0.01, "slower"),
            "warning, this made it slower: 1.50 ms lost (0.84×), 0.10 points of accuracy lost",
        ),
        (7.95, 91.0, 2.0, "no faster", "warning, no faster within the noise: 0.05 ms saved"),
    ],
)
def test_other_steps_have_none_but_a_word_or_a_warning(after_ms, after_pct, noise, word, text):
    found = step(8.0, after_ms, after_pct, noise)
    assert (found.word, found.ms_per_point) == (word, None)
    assert sentence(found).startswith(BEGIN + text)


@pytest.mark.parametrize("interval", [(-0.2, 0.3), (0.0, 0.1), (-0.1, 0.0)])
def test_an_interval_that_holds_zero_is_no_saving(interval):
    assert judged(0.05, interval, 0.5) == "no faster"


def test_without_an_interval_any_difference_counts():
    assert [judged(saved, None, 0.0) for saved in (0.1, -0.1, 0.0)] == [
        *("free", "slower", "no faster"),
    ]


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0, 100))
def test_only_what_saves_and_loses_has_a_price(before_ms, after_ms, after_pct):
    durations = {
        proven(val=50.0): np.full((1, 4), before_ms),
        proven(level=1, val=after_pct): np.full((1, 4), after_ms),
    }
    [found] = verdicts(durations, 1)
    priced = found.saved_ms > 0 and found.lost_points > 0
    assert (found.ms_per_point is not None) == priced
    assert found.times == pytest.approx(before_ms / after_ms)
    if found.ms_per_point is not None:
        assert found.ms_per_point * found.lost_points == pytest.approx(found.saved_ms)


def test_steps_relate_to_the_first_variant_in_full_precision():
    engines = [
        proven(variant, level, precision)
        for variant in ("dense", "lacoot")
        for level in (0, 2)
        for precision in ("fp32", "int8")
    ]
    found = verdicts({one: np.ones((2, 2)) for one in engines}, 1)
    assert {(one.step, one.before, one.after) for one in found} == {
        ("precision", "dense level 0 fp32", "dense level 0 int8"),  # lacoot's own is no step
        *(
            (step, before.format(variant), f"{variant} level 2 {precision}")
            for variant in ("dense", "lacoot")
            for step, before, precision in (
                ("depth", "dense level 0 fp32", "fp32"),
                ("both", "dense level 0 fp32", "int8"),
                ("precision after depth", "{} level 2 fp32", "int8"),
            )
        ),
    }
    assert reference(engines, "onnxruntime") == engines[0]
    quantised = [one for one in engines if one.precision == "int8"]
    assert reference(quantised, "onnxruntime") == quantised[0]
    assert verdicts({one: np.ones((2, 2)) for one in quantised}, 1) == [], "nothing in fp32"
