"""The recommendation obeys its limits, and nothing that obeys them is better."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from summaries import Rows, engine, network, summary

from pipeline.core.params import Choose
from pipeline.report.records import Choice, timed


def row(variant: str, level: int, val: float, ms: float | None, **by_backend: float) -> Rows:
    """A network with its engines."""
    of = network(variant, level, val)
    latencies = ({} if ms is None else {"onnxruntime": ms}) | by_backend
    return [(of, [engine(of, each, backend) for backend, each in latencies.items()])]


DENSE, HALF, DEEP = row("dense", 0, 91.0, 10.0), row("dense", 2, 90.5, 6.0), row("dense", 5, 80, 3)
ROWS = [*DENSE, *HALF, *DEEP]


def chosen_of(rows: Rows, wanted: Choose) -> Choice:
    return summary(rows, wanted).recommendation


def limits(drop: float | None = None, ms: float | None = None, **changes: Any) -> Choose:
    return Choose(max_accuracy_drop_pct=drop, latency_budget_ms=ms, **changes)


def level_of(choice: Choice) -> int:
    assert choice.chosen is not None
    return choice.chosen.level


def test_the_fastest_within_the_drop() -> None:
    choice = chosen_of(ROWS, limits(drop=1.0))
    assert level_of(choice) == 2
    assert choice.reason == (
        "dense level 2, fp32 on onnxruntime: -0.50 points against the whole dense, "
        "1.67× as fast; what is faster costs 11.00 points or more"
    )


def test_the_most_accurate_within_the_budget() -> None:
    choice = chosen_of(ROWS, limits(ms=6.0))
    assert level_of(choice) == 2
    assert "what is more accurate takes 10.00 ms or more, over the budget of 6 ms" in choice.reason


def test_both_limits_hold_together() -> None:
    assert level_of(chosen_of(ROWS, limits(drop=20.0, ms=4.0))) == 5
    assert level_of(chosen_of(ROWS, limits(drop=1.0, ms=20.0))) == 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (limits(drop=1.0, ms=4.0), "no engine that loses at most 1 points keeps 4 ms; the closest"),
        (limits(ms=1.0), "no engine keeps 1 ms; the closest, dense level 5"),
        (limits(backend="tensorrt"), "no engine was timed on backend 'tensorrt'"),
    ],
)
def test_where_nothing_obeys_it_says_what_comes_closest(wanted: Choose, message: str) -> None:
    choice = chosen_of(ROWS, wanted)
    assert choice.chosen is None
    assert message in choice.reason


def test_where_no_whole_network_was_timed_the_most_accurate_is_the_reference() -> None:
    choice = chosen_of([*HALF, *DEEP], limits(drop=0.4))
    assert level_of(choice) == 2
    assert choice.reference == choice.chosen


def test_every_backend_is_compared_with_itself() -> None:
    whole = row("dense", 0, 91.0, 10.0, tensorrt=4.0)
    shallow = row("dense", 2, 90.5, 6.0, tensorrt=2.0)
    choice = chosen_of([*whole, *shallow], limits(drop=1.0))
    assert choice.chosen is not None
    assert choice.reference is not None
    assert (choice.chosen.backend, choice.reference.latency_ms) == ("tensorrt", 4.0)
    assert "2.00× as fast" in choice.reason


def test_a_network_that_lost_blocks_in_training_is_no_reference() -> None:
    shallow = network("anneal", 0, 92.0, removed_in_training=["layer1.0"])
    choice = chosen_of([*DENSE, (shallow, [engine(shallow, 3.0)])], limits(drop=1.0))
    assert choice.reference is not None
    assert choice.reference.variant == "dense"
    assert "+1.00 points" in choice.reason


def test_what_was_not_timed_on_a_backend_is_compared_with_all_the_same() -> None:
    deep = row("dense", 5, 85.5, None, tensorrt=0.4)
    none = chosen_of([*DENSE, *deep], limits(drop=1.0, backend="tensorrt"))
    assert none.chosen is None
    assert "dense level 5, fp32 on tensorrt, loses 5.50" in none.reason
    choice = chosen_of([*DENSE, *deep], limits(drop=6.0, backend="tensorrt"))
    assert choice.reference is None
    assert choice.reason.startswith(
        "dense level 5, fp32 on tensorrt: -5.50 points against the whole dense; nothing"
    )


def test_where_nothing_is_whole_it_is_not_called_so() -> None:
    choice = chosen_of([*HALF, *DEEP], limits(ms=6.0))
    assert "dense level 2, which is the most accurate itself" in choice.reason


def test_test_accuracy_does_not_choose() -> None:
    of = network("tempting", 2, 90.4, test_accuracy_pct=99.0)
    choice = chosen_of([*DENSE, *HALF, (of, [engine(of, 6.0)])], limits(ms=6.0))
    assert choice.chosen is not None
    assert choice.chosen.variant == "dense"


def unsure(rows: Rows, ms: float, **changes: Any) -> Rows:
    """The rows with intervals so wide to either side."""
    [(of, [one])] = rows
    return [(of, [replace(one, quiet_ci_ms=(one.quiet_ms - ms, one.quiet_ms + ms), **changes)])]


def test_of_engines_that_are_level_the_shallowest_then_the_smallest_is_taken() -> None:
    fast, deep = unsure(row("dense", 1, 90.8, 5.0), 0.3), unsure(row("dense", 3, 90.6, 5.2), 0.3)
    small = unsure(row("lacoot", 3, 90.4, 5.3), 0.3, bytes=30)
    choice = chosen_of([*DENSE, *fast, *deep, *small], limits(drop=1.0))
    assert choice.chosen is not None
    assert (choice.chosen.variant, choice.chosen.level) == ("lacoot", 3)
    assert [(one.variant, one.level) for one in choice.level_with] == [("dense", 1), ("dense", 3)]
    assert choice.reason.endswith(
        "level with it within the noise: dense level 1, fp32 on onnxruntime, "
        "dense level 3, fp32 on onnxruntime"
    )
    assert "nothing is faster" in choice.reason
    sure = [unsure(rows, 0.05) for rows in (fast, deep, small)]
    choice = chosen_of([*DENSE, *(one for rows in sure for one in rows)], limits(drop=1.0))
    assert level_of(choice) == 1
    assert choice.level_with == []


def test_under_a_budget_only_what_is_as_accurate_is_level() -> None:
    best, worse = unsure(row("dense", 1, 90.8, 5.0), 0.3), unsure(row("dense", 3, 90.6, 5.2), 0.3)
    choice = chosen_of([*DENSE, *best, *worse], limits(ms=6.0))
    assert (level_of(choice), choice.level_with) == (1, [])


def test_an_engine_is_judged_by_its_own_accuracy() -> None:
    [(of, [timed_one])] = HALF
    own = replace(timed_one, val_accuracy_pct=85.0, test_accuracy_pct=84.0)
    (found,) = timed([of], [own])
    assert (found.val_accuracy_pct, found.test_accuracy_pct) == (85.0, 84.0)
    assert level_of(chosen_of([*DENSE, (of, [own])], limits(drop=1.0))) == 0


some_rows = st.lists(
    st.builds(
        row,
        st.sampled_from(["dense", "lacoot"]),
        st.integers(0, 4),
        st.floats(50, 99),
        st.one_of(st.none(), st.floats(0.5, 20)),
    ),
    max_size=8,
    unique_by=lambda rows: rows[0][0].key,
)
some_limits = st.builds(
    limits, st.one_of(st.none(), st.floats(0, 30)), st.one_of(st.none(), st.floats(0.5, 20))
)


@given(some_rows, some_limits)
def test_the_choice_obeys_and_nothing_that_obeys_is_better(
    found: list[Rows], wanted: Choose
) -> None:
    rows = [one for each in found for one in each]
    choice = chosen_of(rows, wanted)
    whole = [(of, engines) for of, engines in rows if not of.removed]
    known = [of for of, engines in whole if engines] or [of for of, _ in whole or rows]
    best = max((of.val_accuracy_pct for of in known), default=0.0)
    obeying = [
        c
        for c in summary(rows, wanted).timed
        if wanted.max_accuracy_drop_pct is None
        or round(best - c.val_accuracy_pct, 2) <= wanted.max_accuracy_drop_pct
        if wanted.latency_budget_ms is None or c.latency_ms <= wanted.latency_budget_ms
    ]
    if not obeying:
        assert choice.chosen is None
        return
    assert choice.chosen in obeying
    if wanted.latency_budget_ms is None:
        assert choice.chosen.latency_ms == min(c.latency_ms for c in obeying)
    else:
        assert choice.chosen.val_accuracy_pct == max(c.val_accuracy_pct for c in obeying)
