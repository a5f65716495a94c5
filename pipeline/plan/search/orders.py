"""Which blocks are removed, and in which order: the searches that `plan.search` names.

A search asks about networks without some of the blocks through a `SearchProblem`, so it depends
neither on torch nor on engines. It returns levels, each with one block less than the one before.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.params import Plan
from pipeline.core.progress import progress
from pipeline.plan.level import (
    MeasuredNetwork,
    ShallowNetwork,
    deepest_level,
    most_accurate_level,
    require_within_budget,
)


@dataclass(frozen=True)
class SearchProblem:
    """What a search decides by.

    Attributes:
        scores: of the blocks that can be removed, in the network's order; low: remove first.
        params: the `plan` section.
        measure: measures the network without these blocks, with their replacements.
        rescore: returns the scores of the remaining blocks in that network.
        latencies_ms: times networks against each other.
        first: blocks to remove before all others, in this order, whatever their scores.
    """

    scores: Mapping[str, float]
    params: Plan
    measure: Callable[[Sequence[str]], MeasuredNetwork]
    rescore: Callable[[MeasuredNetwork], Mapping[str, float]]
    latencies_ms: Callable[[Sequence[ShallowNetwork]], Sequence[float]]
    first: Sequence[str] = ()

    def next_of_first(self, remaining: Mapping[str, Any]) -> str | None:
        """Return the next block of `first`; None where all of them are removed."""
        return next((name for name in self.first if name in remaining), None)


@dataclass(frozen=True)
class SearchResult:
    """The levels, from the whole network on; the chosen one; what else the search measured."""

    levels: list[MeasuredNetwork]
    chosen_level: int
    scores: dict[str, float] | None = None  # greedy: each block's when it was removed
    latencies_ms: Sequence[float] | None = None  # latency_aware: of every level
    whole_ms: float | None = None  # latency_aware: of the whole network
    savings_ms: dict[str, float] | None = None  # latency_aware: of each block alone

    @property
    def order(self) -> list[str]:
        """Return the blocks in the order of their removal."""
        return self.levels[-1].removed


def removal_order(scores: Mapping[str, float]) -> list[str]:
    """Return the blocks from the lowest score to the highest; ties keep the network's order."""
    return sorted(scores, key=lambda name: scores[name])


def one_shot(problem: SearchProblem) -> SearchResult:
    """Remove in the order of the scores in the whole network, as LaCoOT does.

    Source: arXiv 2406.08933, section 4.
    """
    others = [name for name in removal_order(problem.scores) if name not in problem.first]
    order = [*problem.first, *others]
    counts = progress(range(len(order) + 1), "levels")
    return _within_drop([problem.measure(order[:n]) for n in counts], problem)


def greedy(problem: SearchProblem) -> SearchResult:
    """Score again after every removal: the remaining block with the lowest score is the next."""
    levels, scores, removed = [problem.measure([])], problem.scores, dict[str, float]()
    for _ in progress(problem.scores, "levels"):
        name = problem.next_of_first(scores) or removal_order(scores)[0]
        removed[name] = scores[name]
        levels.append(problem.measure(list(removed)))
        scores = {other: score for other, score in scores.items() if other not in removed}
        if scores and problem.next_of_first(scores) is None:
            scores = problem.rescore(levels[-1])
    return _within_drop(levels, problem, removed)


def latency_aware(problem: SearchProblem) -> SearchResult:
    """Remove by accuracy lost per ms saved; choose the most accurate level within the budget.

    A block's saving is measured in the whole network, its loss of accuracy anew after every
    removal. Savings do not add up, so every level is timed as the network it is.

    Raises:
        ParamsError: no level is within `plan.latency_budget_ms`.
    """
    levels = [problem.measure([])]
    blocks = progress(problem.scores, "measuring blocks")
    options = {name: problem.measure([name]) for name in blocks}
    bare = ShallowNetwork(list(options), {})
    whole_ms, bare_ms, *without_ms = problem.latencies_ms([levels[0], bare, *options.values()])
    require_within_budget({0: whole_ms, len(options): bare_ms}, problem.params)
    savings = {n: round(whole_ms - ms, 4) for n, ms in zip(options, without_ms, strict=True)}
    while options:
        cheapest = _cheapest_to_remove(options, savings, levels[-1].accuracy_pct)
        levels.append(options.pop(problem.next_of_first(options) or cheapest))
        removed = levels[-1].removed
        remaining = progress(options, f"measuring level {len(removed) + 1}")
        options = {name: problem.measure([*removed, name]) for name in remaining}
    latencies = problem.latencies_ms(levels)
    chosen = most_accurate_level(_accuracies(levels), latencies, problem.params)
    return SearchResult(
        levels, chosen, latencies_ms=latencies, whole_ms=whole_ms, savings_ms=savings
    )


SEARCHES: dict[str, Callable[[SearchProblem], SearchResult]] = {
    "one_shot": one_shot,
    "greedy": greedy,
    "latency_aware": latency_aware,
}

# Searches that decide by something else than a criterion of `pipeline.plan.scoring.criteria`.
OWN_CRITERIA = {"latency_aware": "accuracy_lost_per_ms"}


def _accuracies(levels: Sequence[MeasuredNetwork]) -> list[float]:
    return [level.accuracy_pct for level in levels]


def _within_drop(
    levels: list[MeasuredNetwork], problem: SearchProblem, scores: dict[str, float] | None = None
) -> SearchResult:
    chosen = deepest_level(_accuracies(levels), problem.params.max_accuracy_drop_pct)
    return SearchResult(levels, chosen, scores)


def _cheapest_to_remove(
    options: Mapping[str, MeasuredNetwork], savings_ms: Mapping[str, float], accuracy_pct: float
) -> str:
    """Return the block whose removal loses least accuracy per ms saved.

    Of those that lose none it is the one that saves most. Those that save nothing come last, the
    smallest loss first.
    """

    def price(name: str) -> tuple[float, float, float]:
        lost, saved = accuracy_pct - options[name].accuracy_pct, savings_ms[name]
        per_ms = max(lost, 0.0) / saved if saved > 0 else math.inf
        return per_ms, -max(saved, 0.0), lost

    return min(options, key=price)
