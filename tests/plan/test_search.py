"""The searches on networks whose accuracy and latency are known functions of what is removed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ParamsError
from pipeline.core.params import Plan
from pipeline.plan.level import MeasuredNetwork, ShallowNetwork, deepest_level
from pipeline.plan.search.orders import SEARCHES, SearchProblem, SearchResult, removal_order

OfSet = Callable[[frozenset[str]], float]


def never(_: Iterable[str]) -> float:
    raise AssertionError("not asked for by this search")


def settings(search: str = "one_shot", **options: float) -> Plan:
    return Plan.model_validate(
        {
            "criterion": "auto",
            "search": search,
            "max_accuracy_drop_pct": 1.0,
            **options,
        }
    )


@dataclass
class Network:
    """A problem of known functions, and a record of what was asked."""

    scores: Mapping[str, float]
    accuracy: OfSet
    latency: OfSet
    lost: OfSet  # a block's new score is what it adds to this
    measured: list[list[str]] = field(default_factory=list)
    timed: list[list[list[str]]] = field(default_factory=list)

    def measure(self, removed: Sequence[str]) -> MeasuredNetwork:
        self.measured.append(list(removed))
        return MeasuredNetwork(list(removed), {}, self.accuracy(frozenset(removed)))

    def rescore(self, level: MeasuredNetwork) -> dict[str, float]:
        removed = frozenset(level.removed)
        left = [name for name in self.scores if name not in removed]
        return {name: self.lost(removed | {name}) - self.lost(removed) for name in left}

    def latencies_ms(self, networks: Sequence[ShallowNetwork]) -> list[float]:
        self.timed.append([network.removed for network in networks])
        return [self.latency(frozenset(network.removed)) for network in networks]

    def search(self, params: Plan, first: Sequence[str] = ()) -> SearchResult:
        problem = SearchProblem(
            self.scores, params, self.measure, self.rescore, self.latencies_ms, first
        )
        return SEARCHES[params.search](problem)


def test_the_lowest_score_is_removed_first_and_ties_keep_the_networks_order() -> None:
    assert removal_order({"a": 0.5, "b": 0.1, "c": 0.5, "d": -1.0}) == ["d", "b", "a", "c"]


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 20))
def test_the_deepest_level_within_the_drop(accuracies: list[float], drop: float) -> None:
    chosen = deepest_level(accuracies, drop)
    floor = accuracies[0] - drop - 1e-9
    assert accuracies[chosen] >= floor
    assert all(accuracy < floor for accuracy in accuracies[chosen + 1 :])


def test_a_drop_of_exactly_the_limit_is_allowed_whatever_the_rounding() -> None:
    assert deepest_level([64.15, 63.65], 0.5) == 1
    assert deepest_level([64.15, 63.64], 0.5) == 0


def test_a_level_below_the_floor_does_not_hide_a_deeper_one_above_it() -> None:
    assert deepest_level([90, 80, 89.5], 1) == 2


@given(st.lists(st.integers(-3, 3), max_size=6))
def test_greedy_is_one_shot_where_scores_do_not_change_with_removal(values: list[int]) -> None:
    scores = {f"block {i}": float(value) for i, value in enumerate(values)}

    def total(removed: frozenset[str]) -> float:
        return sum(scores[name] for name in removed)

    found = [
        Network(scores, lambda removed: 90 - len(removed), never, total).search(settings(search))
        for search in ("one_shot", "greedy")
    ]
    assert found[0].order == found[1].order
    assert found[0].levels == found[1].levels
    assert found[0].chosen_level == found[1].chosen_level == min(1, len(scores))
    assert found[1].scores == {name: scores[name] for name in found[1].order}


@pytest.mark.parametrize("search", SEARCHES)
def test_first_blocks_are_removed_first_whatever_is_measured(search: str) -> None:
    scores = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}

    def lost(removed: frozenset[str]) -> float:
        return sum(scores[name] for name in removed)

    network = Network(
        scores, lambda removed: 90 - lost(removed), lambda removed: 10.0 - len(removed), lost
    )
    params = settings(search, **({"latency_budget_ms": 20.0} if "latency" in search else {}))
    found = network.search(params, ["d", "c"])
    assert found.order == ["d", "c", "a", "b"]
    if search == "greedy":
        assert found.scores == {name: scores[name] for name in found.order}


def redundant(removed: frozenset[str]) -> float:
    """What is lost: a and b do the same, so either can be removed, but not both; c is worth more.

    The second choice changes once the first is removed.
    """
    return (
        5.0 * ("a" in removed and "b" in removed) + 1.0 * ("a" in removed) + 2.0 * ("c" in removed)
    )


def test_greedy_chooses_the_second_by_the_network_without_the_first() -> None:
    whole = {name: redundant(frozenset(name)) for name in "abc"}
    network = Network(whole, lambda removed: 90 - redundant(removed), never, redundant)
    assert network.search(settings("one_shot")).order == ["b", "a", "c"]
    found = network.search(settings("greedy", max_accuracy_drop_pct=2.0))
    assert found.order == ["b", "c", "a"]
    assert found.scores == {"b": 0, "c": 2, "a": 6}
    assert found.chosen_level == 2


@pytest.mark.parametrize("search", ["one_shot", "greedy"])
def test_a_search_without_time_measures_every_level_once(search: str) -> None:
    network = Network(dict.fromkeys("abcd", 0.0), lambda _: 90.0, never, lambda _: 0.0)
    network.search(settings(search))
    assert network.measured == [list("abcd")[:n] for n in range(5)]


def subsets(names: Iterable[str]) -> list[frozenset[str]]:
    names = list(names)
    sets = chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))
    return list(map(frozenset, sets))


def best_within(network: Network, budget_ms: float) -> float:
    """Return the best accuracy of all subsets within the budget, by trying each."""
    return max(
        network.accuracy(removed)
        for removed in subsets(network.scores)
        if network.latency(removed) <= budget_ms
    )


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=4),
    st.floats(4.0, 12.0),
)
def test_equal_blocks_are_chosen_as_well_as_by_trying_all_subsets(
    losses: list[int], budget_ms: float
) -> None:
    """Every block saves the same, and ever less: greedy is optimal, the sum of savings is not."""
    lost = {f"block {i}": float(loss) for i, loss in enumerate(losses)}

    def latency(removed: frozenset[str]) -> float:
        return 10 - 3 * math.sqrt(len(removed))

    network = Network(
        dict.fromkeys(lost, 0.0), lambda removed: 90 - sum(lost[n] for n in removed), latency, never
    )
    params = settings("latency_aware", latency_budget_ms=budget_ms)
    if all(latency(removed) > budget_ms for removed in subsets(lost)):
        with pytest.raises(ParamsError, match="out of reach"):
            network.search(params)
        return
    found = network.search(params)
    chosen = found.levels[found.chosen_level]
    assert chosen.accuracy_pct == best_within(network, budget_ms)
    assert found.latencies_ms[found.chosen_level] <= budget_ms
    assert found.savings_ms == dict.fromkeys(lost, 3.0)
    assert found.latencies_ms == [latency(frozenset(level.removed)) for level in found.levels]


SAVED_ALONE = {"wide": 4.0, "thin": 0.5, "deep": 2.0, "late": 1.0}
LOST_ALONE = {"wide": 2.0, "thin": 1.5, "deep": 0.5, "late": 4.0}


def overlapping(removed: frozenset[str]) -> float:
    """Two blocks that fuse with each other save less together than one by one."""
    overlap = 1.5 if {"wide", "deep"} <= removed else 0.0
    return 10 - sum(SAVED_ALONE[name] for name in removed) + overlap


def test_blocks_are_removed_by_accuracy_lost_per_ms_and_levels_are_timed_as_they_are() -> None:
    network = Network(
        dict.fromkeys(SAVED_ALONE, 0.0),
        lambda removed: 90 - sum(LOST_ALONE[name] for name in removed),
        overlapping,
        never,
    )
    found = network.search(settings("latency_aware", latency_budget_ms=5.6))
    assert found.order == ["deep", "wide", "thin", "late"]  # 0.25, 0.5, 3 and 4 points per ms
    assert found.latencies_ms == [10, 8, 5.5, 5, 4]  # 4, 3.5, 2.5 if savings added up
    assert found.chosen_level == 2
    assert found.levels[2].accuracy_pct == best_within(network, 5.6)
    assert found.savings_ms == SAVED_ALONE
    assert found.whole_ms == 10
    assert network.timed[1] == [found.order[:n] for n in range(5)]
    assert len(network.measured) == 1 + 4 + 3 + 2 + 1


def test_accuracy_is_measured_again_after_a_removal() -> None:
    network = Network(
        dict.fromkeys("abc", 0.0),
        lambda removed: 90 - redundant(removed),
        lambda g: 10 - len(g),
        never,
    )
    found = network.search(settings("latency_aware", latency_budget_ms=8.0))
    assert found.order == ["b", "c", "a"]
    assert found.levels[found.chosen_level].accuracy_pct == best_within(network, 8.0) == 88


def test_without_loss_the_largest_saving_is_first_and_without_saving_a_block_is_last() -> None:
    saved = {"slower": -0.1, "gains": 1.0, "free": 2.0, "dear": 3.0, "same": 0.0}
    lost = {"slower": 0.0, "gains": -1.0, "free": 0.0, "dear": 1.0, "same": 1.0}
    network = Network(
        dict.fromkeys(saved, 0.0),
        lambda removed: 90 - sum(lost[name] for name in removed),
        lambda removed: 10 - sum(saved[name] for name in removed),
        never,
    )
    found = network.search(settings("latency_aware", latency_budget_ms=20.0))
    assert found.order == ["free", "gains", "dear", "slower", "same"]
    assert found.chosen_level == 2  # 91 %, the most accurate


def test_of_equally_accurate_levels_the_fastest_is_chosen() -> None:
    network = Network(dict.fromkeys("ab", 0.0), lambda _: 90.0, lambda g: 10 - len(g), never)
    found = network.search(settings("latency_aware", latency_budget_ms=10.0))
    assert found.chosen_level == 2


def test_a_budget_out_of_reach_is_an_error_before_the_search() -> None:
    network = Network(dict.fromkeys("abc", 0.0), lambda _: 90.0, lambda g: 10 - len(g), never)
    with pytest.raises(ParamsError) as caught:
        network.search(settings("latency_aware", latency_budget_ms=6.5, latency_batch=4))
    assert str(caught.value) == (
        "plan.latency_budget_ms = 6.5 is out of reach: the fastest level, without 3 of 3 blocks, "
        "takes 7 ms at batch 4 on this machine; allow at least that, or start from a smaller "
        "network"
    )
    assert len(network.measured) == 4  # the whole network and each block alone


def test_replacements_may_break_a_budget_that_looked_possible() -> None:
    def measure(removed: Sequence[str]) -> MeasuredNetwork:
        return MeasuredNetwork(list(removed), dict.fromkeys(removed), 90.0)

    def latencies_ms(networks: Sequence[ShallowNetwork]) -> list[float]:
        return [10 - len(n.removed) + 0.5 * len(n.replacements) for n in networks]

    params = settings("latency_aware", latency_budget_ms=8.5)
    problem = SearchProblem(dict.fromkeys("ab", 0.0), params, measure, lambda _: {}, latencies_ms)
    with pytest.raises(ParamsError, match=r"without 2 of 2 blocks, takes 9 ms"):
        SEARCHES["latency_aware"](problem)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_network_without_removable_blocks_has_one_level(search: str) -> None:
    network = Network({}, lambda _: 90.0, lambda _: 1.0, never)
    found = network.search(settings(search, latency_budget_ms=2.0))
    assert (found.order, len(found.levels), found.chosen_level) == ([], 1, 0)
