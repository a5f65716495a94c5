"""Which operators a precision must leave in float32, found by measuring.

Where a graph misses its tolerance, the operators with the largest isolated error are kept in
float32: each is converted alone while all others stay in float32, and the errors rank them. Then 1,
2, 4, … of the worst are kept until the whole graph is within its tolerance.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from models.errors import BackendError, ParityError
from pipeline.engines.precision.tolerances import Tolerance, violations
from pipeline.export.parity import Parity

Convert = Callable[[Collection[str]], ModelProto]  # operators to keep in float32 -> graph
Measure = Callable[[ModelProto], Parity]

GROUPS = 32  # at most so many measurements for the ranking; neighbours share one in larger graphs
HEADROOM = 0.8  # of the tolerance: other images may do worse than these


@dataclass(frozen=True)
class Mixture:
    """A graph within its tolerance, or the best there was."""

    model: ModelProto
    kept: list[str]  # operators kept in float32, in the order of the graph
    parity: Parity | None  # None where it cannot be compared
    error_ratio: float  # error as a share of the tolerance; above 1 it is missed
    missed: str  # what is worse than the tolerance, or why it cannot be compared; else empty


def convert_within(
    tolerance: Tolerance,
    operators: Sequence[str],
    convert: Convert,
    *,
    rank: Measure,
    measure: Measure,
) -> Mixture:
    """Convert a graph but for the most sensitive operators, where the tolerance demands it.

    At most a quarter of them: more would be int8 in name only. The result may still miss the
    tolerance, which is to be met with some headroom.

    Args:
        tolerance: of the precision.
        operators: names of those that can be kept, in the order of the graph.
        convert: returns the graph with the given operators left in float32.
        rank, measure: compare a graph with the original, `rank` on few images.
    """

    def attempt(kept: Collection[str]) -> Mixture:
        model = convert(kept)
        in_order = [name for name in operators if name in kept]
        return Mixture(model, in_order, *_judged(measure, model, tolerance))

    def isolated_error(group: Collection[str]) -> float:
        alone = convert([name for name in operators if name not in group])
        return _judged(rank, alone, tolerance)[1]

    best = attempt(())
    if best.error_ratio <= HEADROOM or not operators:
        return best
    groups = np.array_split(operators, min(GROUPS, len(operators)))
    worst_first = sorted((group.tolist() for group in groups), key=isolated_error, reverse=True)
    number = 1
    while best.error_ratio > HEADROOM and number <= math.ceil(len(worst_first) / 4):
        kept = {name for group in worst_first[:number] for name in group}
        best = min(best, attempt(kept), key=lambda found: found.error_ratio)
        number *= 2
    return best


def error_ratio(parity: Parity, tolerance: Tolerance) -> float:
    """Return the largest of the errors as a share of what is tolerated; NaN counts as infinite."""
    shares = (
        parity.max_rel / tolerance.max_rel,
        (1 - parity.cosine) / (1 - tolerance.cosine),
        (1 - parity.top1_agreement) / (1 - tolerance.top1_agreement),
    )
    return max(math.inf if math.isnan(share) else share for share in shares)


def _judged(
    measure: Measure, model: ModelProto, tolerance: Tolerance
) -> tuple[Parity | None, float, str]:
    try:
        parity = measure(model)
    except (ParityError, BackendError) as e:
        return None, math.inf, str(e)
    return parity, error_ratio(parity, tolerance), "; ".join(violations(parity, tolerance))
