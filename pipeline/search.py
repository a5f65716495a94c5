"""Which blocks leave a network, and in which order: the searches that `plan.search` names.

A search asks about networks without some of the blocks through a `Problem`, so it knows neither
torch nor engines. It returns levels, each with one block less than the one before.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.errors import ParamsError
from pipeline.params import Plan
from pipeline.progress import progress
from pipeline.replacement import StandIns


@dataclass(frozen=True)
class Shallow:
    """A network without some of its blocks."""

    removed: list[str]
    stand_ins: StandIns  # of removed blocks; the identity where there is none


@dataclass(frozen=True)
class Level(Shallow):
    """A network without some of its blocks, and what was measured of it."""

    accuracy_pct: float  # on validation images
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What a search goes by.

    Attributes:
        scores: of the blocks that may go, in the network's order; low means: remove first.
        params: the `plan` section.
        judge: measures the network without these blocks, with what would stand in for them.
        rescore: returns the scores of the other blocks in that network.
        latencies_ms: times networks against each other.
        first: blocks that go before all others, in this order, whatever their scores.
    """

    scores: Mapping[str, float]
    params: Plan
    judge: Callable[[Sequence[str]], Level]
    rescore: Callable[[Level], Mapping[str, float]]
    latencies_ms: Callable[[Sequence[Shallow]], Sequence[float]]
    first: Sequence[str] = ()

    def first_of(self, left: Mapping[str, Any]) -> str | None:
        """Return the block that goes next because it goes first; none where those are gone."""
        return next((name for name in self.first if name in left), None)


@dataclass(frozen=True)
class Found:
    """The levels, from the whole network on; the chosen one; what else the search measured."""

    levels: list[Level]
    chosen_level: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Return the blocks as they go."""
        return self.levels[-1].removed


def removal_order(scores: Mapping[str, float]) -> list[str]:
    """Return the blocks from the least missed to the most; ties keep the network's order."""
    return sorted(scores, key=lambda name: scores[name])


def deepest_level(accuracies_pct: Sequence[float], max_drop_pct: float) -> int:
    """Return the deepest level whose accuracy is at most `max_drop_pct` points below level 0's."""
    floor = accuracies_pct[0] - max_drop_pct - 1e-9  # a drop of exactly the limit is allowed
    return max(level for level, accuracy in enumerate(accuracies_pct) if accuracy >= floor)


def one_shot(problem: Problem) -> Found:
    """Remove in the order of the scores in the whole network, as LaCoOT does.

    Source: arXiv 2406.08933, section 4.
    """
    others = [name for name in removal_order(problem.scores) if name not in problem.first]
    order = [*problem.first, *others]
    counts = progress(range(len(order) + 1), "levels")
    return _within_drop([problem.judge(order[:n]) for n in counts], problem)


def greedy(problem: Problem) -> Found:
    """Score again after every removal: the next to go is the least missed of what is left."""
    levels, scores, gone = [problem.judge([])], problem.scores, dict[str, float]()
    for _ in progress(problem.scores, "levels"):
        name = problem.first_of(scores) or removal_order(scores)[0]
        gone[name] = scores[name]
        levels.append(problem.judge(list(gone)))
        scores = {other: score for other, score in scores.items() if other not in gone}
        if scores and problem.first_of(scores) is None:
            scores = problem.rescore(levels[-1])
    return _within_drop(levels, problem, {"scores": gone})


def latency_aware(problem: Problem) -> Found:
    """Remove by accuracy lost per ms saved; choose the most accurate level within the budget.

    A block's saving is measured in the whole network, its loss of accuracy anew after every
    removal. Savings do not add up, so every level is timed as the network it is.

    Raises:
        ParamsError: no level is within `plan.latency_budget_ms`.
    """
    levels = [problem.judge([])]
    options = {name: problem.judge([name]) for name in progress(problem.scores, "judging blocks")}
    bare = Shallow(list(options), {})
    networks = [levels[0], bare, *options.values()]
    whole_ms, bare_ms, *without_ms = problem.latencies_ms(networks)
    _fastest_within_budget([levels[0], bare], [whole_ms, bare_ms], problem.params)
    savings = {n: round(whole_ms - ms, 4) for n, ms in zip(options, without_ms, strict=True)}
    while options:
        cheapest = _cheapest_to_lose(options, savings, levels[-1].accuracy_pct)
        name = problem.first_of(options) or cheapest
        levels.append(options.pop(name))
        removed = levels[-1].removed
        label = f"judging level {len(removed) + 1}"
        options = {name: problem.judge([*removed, name]) for name in progress(options, label)}
    latencies = problem.latencies_ms(levels)
    return Found(
        [
            replace(level, facts={**level.facts, "latency_ms": ms})
            for level, ms in zip(levels, latencies, strict=True)
        ],
        most_accurate_level(levels, latencies, problem.params),
        {
            "latency_budget_ms": problem.params.latency_budget_ms,
            "latency_batch": problem.params.latency_batch,
            "whole_ms": whole_ms,
            "savings_ms": savings,
        },
    )


SEARCHES: dict[str, Callable[[Problem], Found]] = {
    "one_shot": one_shot,
    "greedy": greedy,
    "latency_aware": latency_aware,
}

# Searches that go by something else than a criterion of `pipeline.criteria`.
OWN_CRITERIA = {"latency_aware": "accuracy_lost_per_ms"}


def most_accurate_level(
    levels: Sequence[Level], latencies_ms: Sequence[float], params: Plan
) -> int:
    """Return the most accurate level within the budget, of equally accurate ones the fastest.

    Raises:
        ParamsError: none is within the budget.
    """
    _fastest_within_budget(levels, latencies_ms, params)
    within = [n for n, ms in enumerate(latencies_ms) if ms <= _budget(params)]
    return max(within, key=lambda n: (levels[n].accuracy_pct, -latencies_ms[n]))


def _within_drop(
    levels: list[Level], problem: Problem, facts: dict[str, Any] | None = None
) -> Found:
    accuracies = [level.accuracy_pct for level in levels]
    chosen = deepest_level(accuracies, problem.params.max_accuracy_drop_pct)
    return Found(levels, chosen, facts or {})


def _cheapest_to_lose(
    options: Mapping[str, Level], savings_ms: Mapping[str, float], accuracy_pct: float
) -> str:
    """Return the block that loses least accuracy per ms saved.

    Of those that lose none the one that saves most goes; those that save nothing go last, the
    least missed first.
    """

    def price(name: str) -> tuple[float, float, float]:
        lost, saved = accuracy_pct - options[name].accuracy_pct, savings_ms[name]
        per_ms = max(lost, 0.0) / saved if saved > 0 else math.inf
        return per_ms, -max(saved, 0.0), lost

    return min(options, key=price)


def _budget(params: Plan) -> float:
    assert params.latency_budget_ms is not None, "checked with params.yaml"
    return params.latency_budget_ms


def _fastest_within_budget(
    networks: Sequence[Shallow], latencies_ms: Sequence[float], params: Plan
) -> None:
    """Raise `ParamsError` where even the fastest network is too slow."""
    fastest = min(range(len(networks)), key=lambda n: latencies_ms[n])
    if latencies_ms[fastest] > _budget(params):
        raise ParamsError(
            f"plan.latency_budget_ms = {_budget(params):g} is out of reach: the fastest level, "
            f"without {len(networks[fastest].removed)} of {len(networks[-1].removed)} blocks, "
            f"takes {latencies_ms[fastest]:.4g} ms at batch {params.latency_batch} on this "
            "machine; allow at least that, or start from a smaller network"
        )
