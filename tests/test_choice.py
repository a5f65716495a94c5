"""The recommendation obeys its limits, and nothing that obeys them is better."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.choice import Choice, choose, timed
from pipeline.params import Choose


def row(variant: str, level: int, val: float, ms: float | None, **changes: Any) -> dict[str, Any]:
    latency = {} if ms is None else {"onnxruntime": {"p50": ms, "p90": ms, "p99": ms}}
    return {
        "variant": variant,
        "level": level,
        "precision": "fp32",
        "removed": [f"layer1.{k}" for k in range(level)],
        "removed_in_training": [],
        "val_accuracy_pct": val,
        "test_accuracy_pct": val - 0.5,
        "engine_accuracy_pct": {},
        "latency_ms": latency,
    } | changes


DENSE, HALF, DEEP = row("dense", 0, 91.0, 10.0), row("dense", 2, 90.5, 6.0), row("dense", 5, 80, 3)
ROWS = [DENSE, HALF, DEEP]


def limits(drop: float | None = None, ms: float | None = None, **changes: Any) -> Choose:
    return Choose(max_accuracy_drop_pct=drop, latency_budget_ms=ms, **changes)


def level_of(choice: Choice) -> int:
    assert choice.chosen is not None
    return choice.chosen.level


def test_the_fastest_within_the_drop() -> None:
    choice = choose(ROWS, limits(drop=1.0))
    assert level_of(choice) == 2
    assert choice.reason == (
        "dense level 2, fp32 on onnxruntime: -0.50 points against the whole dense, "
        "1.67× as fast; what is faster costs 11.00 points or more"
    )


def test_the_most_accurate_within_the_budget() -> None:
    choice = choose(ROWS, limits(ms=6.0))
    assert level_of(choice) == 2
    assert "what is more accurate takes 10.00 ms or more, over the budget of 6 ms" in choice.reason


def test_both_limits_hold_together() -> None:
    assert level_of(choose(ROWS, limits(drop=20.0, ms=4.0))) == 5
    assert level_of(choose(ROWS, limits(drop=1.0, ms=20.0))) == 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (limits(drop=1.0, ms=4.0), "no engine that loses at most 1 points keeps 4 ms; the closest"),
        (limits(ms=1.0), "no engine keeps 1 ms; the closest, dense level 5"),
        (limits(backend="tensorrt"), "no engine was timed on backend 'tensorrt'"),
    ],
)
def test_where_nothing_obeys_it_says_what_comes_closest(wanted: Choose, message: str) -> None:
    choice = choose(ROWS, wanted)
    assert choice.chosen is None
    assert message in choice.reason


def test_where_no_whole_network_was_timed_the_most_accurate_is_the_reference() -> None:
    choice = choose([HALF, DEEP], limits(drop=0.4))
    assert level_of(choice) == 2
    assert choice.reference == choice.chosen


def test_every_backend_is_compared_with_itself() -> None:
    on_two = {"onnxruntime": {"p50": 10.0}, "tensorrt": {"p50": 4.0}}
    whole = DENSE | {"latency_ms": on_two}
    shallow = HALF | {"latency_ms": {"onnxruntime": {"p50": 6.0}, "tensorrt": {"p50": 2.0}}}
    choice = choose([whole, shallow], limits(drop=1.0))
    assert choice.chosen is not None
    assert choice.reference is not None
    assert (choice.chosen.backend, choice.reference.latency_ms) == ("tensorrt", 4.0)
    assert "2.00× as fast" in choice.reason


def test_a_network_that_lost_blocks_in_training_is_no_reference() -> None:
    shallow = row("anneal", 0, 92.0, 3.0, removed_in_training=["layer1.0"])
    choice = choose([DENSE, shallow], limits(drop=1.0))
    assert choice.reference is not None
    assert choice.reference.variant == "dense"
    assert "+1.00 points" in choice.reason


def test_what_was_not_timed_on_a_backend_is_compared_with_all_the_same() -> None:
    elsewhere = {"tensorrt": {"p50": 0.4}}
    deep = row("dense", 5, 85.5, None, latency_ms=elsewhere)
    refused = choose([DENSE, deep], limits(drop=1.0, backend="tensorrt"))
    assert refused.chosen is None
    assert "dense level 5, fp32 on tensorrt, loses 5.50" in refused.reason
    choice = choose([DENSE, deep], limits(drop=6.0, backend="tensorrt"))
    assert choice.reference is None
    assert choice.reason.startswith(
        "dense level 5, fp32 on tensorrt: -5.50 points against the whole dense; nothing"
    )


def test_where_nothing_is_whole_it_is_not_called_so() -> None:
    choice = choose([HALF, DEEP], limits(ms=6.0))
    assert "dense level 2, which is the most accurate itself" in choice.reason


def test_test_accuracy_does_not_choose() -> None:
    tempting = HALF | {"variant": "tempting", "test_accuracy_pct": 99.0, "val_accuracy_pct": 90.4}
    choice = choose([DENSE, HALF, tempting], limits(ms=6.0))
    assert choice.chosen is not None
    assert choice.chosen.variant == "dense"


def test_an_engine_with_a_graph_of_its_own_is_judged_by_that() -> None:
    own = HALF | {"engine_accuracy_pct": {"onnxruntime": {"val": 85.0, "test": 84.0}}}
    (engine,) = timed([own])
    assert (engine.val_accuracy_pct, engine.test_accuracy_pct) == (85.0, 84.0)
    assert level_of(choose([DENSE, own], limits(drop=1.0))) == 0


some_rows = st.lists(
    st.builds(
        row,
        st.sampled_from(["dense", "lacoot"]),
        st.integers(0, 4),
        st.floats(50, 99),
        st.one_of(st.none(), st.floats(0.5, 20)),
    ),
    max_size=8,
)
some_limits = st.builds(
    limits, st.one_of(st.none(), st.floats(0, 30)), st.one_of(st.none(), st.floats(0.5, 20))
)


@given(some_rows, some_limits)
def test_the_choice_obeys_and_nothing_that_obeys_is_better(
    rows: list[dict[str, Any]], wanted: Choose
) -> None:
    choice = choose(rows, wanted)
    whole = [r for r in rows if not r["removed"]]
    known = [r for r in whole if r["latency_ms"]] or whole or rows
    best = max((r["val_accuracy_pct"] for r in known), default=0.0)
    obeying = [
        c
        for c in timed(rows)
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
