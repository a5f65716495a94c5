"""A plan as it is written to metrics/plan/<variant>.json, and as it is printed."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.core.params import Plan
from pipeline.plan.records import DeadBlock, PlanMetrics, PlannedLevel
from pipeline.plan.search.orders import OWN_CRITERIA, SearchResult
from pipeline.plan.search.planning import Candidates, DeadBranches


def plan_metrics(
    variant: str,
    candidates: Candidates,
    params: Plan,
    found: SearchResult,
    dead: DeadBranches,
    measured_on: dict[str, Any] | None,
) -> PlanMetrics:
    """Return the metrics of a plan; `measured_on` is the machine, where latency was measured."""
    latencies: Sequence[float | None] = found.latencies_ms or [None] * len(found.levels)
    return PlanMetrics(
        variant=variant,
        search=params.search,
        criterion=OWN_CRITERIA.get(params.search, candidates.criterion),
        max_accuracy_drop_pct=params.max_accuracy_drop_pct,
        order=found.order,
        not_removable=dict(candidates.not_removable),
        levels=[
            PlannedLevel(
                level=number,
                removed=level.removed,
                replacement=level.replacement,
                val_accuracy_pct=level.accuracy_pct,
                val_accuracy_by_replacement_pct=level.accuracy_by_replacement_pct,
                latency_ms=latency_ms,
            )
            for number, (level, latency_ms) in enumerate(zip(found.levels, latencies, strict=True))
        ],
        chosen_level=found.chosen_level,
        dead=[DeadBlock(name, branch.largest_deviation) for name, branch in dead.items()],
        scores=found.scores,
        latency_budget_ms=params.latency_budget_ms if params.measures_latency else None,
        latency_batch=params.latency_batch if params.measures_latency else None,
        whole_ms=found.whole_ms,
        savings_ms=found.savings_ms,
        measured_on=measured_on,
    )


def plan_lines(planned: PlanMetrics) -> Iterator[str]:
    """Yield what the stage prints of a plan, line by line."""
    for name, reason in planned.not_removable.items():
        yield f"block {name} is not removable: it {reason}"
    for block in planned.dead:
        yield f"block {block.block} is dead: it is replaced by the constant that it adds"
    for name, ms in (planned.savings_ms or {}).items():
        yield f"block {name} alone saves {ms:.3f} of {planned.whole_ms:.3f} ms"
    for level in planned.levels:
        latency = "" if level.latency_ms is None else f"  {level.latency_ms:.3f} ms"
        chosen = "  <- chosen" if level.level == planned.chosen_level else ""
        yield (
            f"level {level.level}  val {level.val_accuracy_pct:.2f} %  "
            f"with {level.replacement}{latency}{chosen}"
        )
