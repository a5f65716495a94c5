"""A network without some of its blocks, and which such level is shipped."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.errors import ParamsError
from models.replacement.fitting import Replacements
from pipeline.core.params import Plan


@dataclass(frozen=True)
class ShallowNetwork:
    """A network without some of its blocks."""

    removed: list[str]
    replacements: Replacements  # of removed blocks; the identity where there is none


@dataclass(frozen=True)
class MeasuredNetwork(ShallowNetwork):
    """A network without some of its blocks, and its accuracy on validation images."""

    accuracy_pct: float
    replacement: str = "identity"  # the kind of the replacements
    accuracy_by_replacement_pct: dict[str, float] = field(default_factory=dict)  # kinds tried


def deepest_level(accuracies_pct: Sequence[float], max_drop_pct: float) -> int:
    """Return the deepest level whose accuracy is at most `max_drop_pct` points below level 0's."""
    floor = accuracies_pct[0] - max_drop_pct - 1e-9  # a drop of exactly the limit is allowed
    return max(level for level, accuracy in enumerate(accuracies_pct) if accuracy >= floor)


def most_accurate_level(
    accuracies_pct: Sequence[float], latencies_ms: Sequence[float], params: Plan
) -> int:
    """Return the most accurate level within the budget, of equally accurate ones the fastest.

    Args:
        accuracies_pct: of every level; level n is without n blocks.
        latencies_ms: the same.
        params: the `plan` section.

    Raises:
        ParamsError: none is within the budget.
    """
    require_within_budget(dict(enumerate(latencies_ms)), params)
    within = [n for n, ms in enumerate(latencies_ms) if ms <= _budget(params)]
    return max(within, key=lambda n: (accuracies_pct[n], -latencies_ms[n]))


def require_within_budget(latencies_ms: dict[int, float], params: Plan) -> None:
    """Raise `ParamsError` where even the fastest network is too slow.

    Args:
        latencies_ms: by the number of removed blocks, at most all of them.
        params: the `plan` section.
    """
    fastest = min(latencies_ms, key=lambda n: latencies_ms[n])
    if latencies_ms[fastest] > _budget(params):
        raise ParamsError(
            f"plan.latency_budget_ms = {_budget(params):g} is out of reach: the fastest level, "
            f"without {fastest} of {max(latencies_ms)} blocks, "
            f"takes {latencies_ms[fastest]:.4g} ms at batch {params.latency_batch} on this "
            "machine; allow at least that, or start from a smaller network"
        )


def _budget(params: Plan) -> float:
    assert params.latency_budget_ms is not None, "checked with params.yaml"
    return params.latency_budget_ms
