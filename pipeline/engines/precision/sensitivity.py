"""Which operators a precision must leave in float32, found by measuring.

A graph that misses its tolerance is mended by keeping back the operators that alone do the most
harm: each is converted while all others stay in float32, and the resulting errors rank them. Then
1, 2, 4, … of the worst are kept back until the whole graph is within its tolerance.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from models.errors import BackendError, ParityError
from pipeline.parity import Parity
from pipeline.tolerances import Tolerance, violations

Convert = Callable[[Collection[str]], ModelProto]  # operators to keep in float32 -> graph
Measure = Callable[[ModelProto], Parity]

GROUPS = 32  # at most so many measurements for the ranking; neighbours share one in larger graphs
HEADROOM = 0.8  # of the tolerance: other images may do worse than those at hand


@dataclass(frozen=True)
class Found:
    """A graph within its tolerance, or the best there was."""

    model: ModelProto
    kept: list[str]  # operators that were kept back for it, in the order of the graph
    parity: Parity | None  # None where it cannot be compared
    strain: float  # error as a share of the tolerance; above 1 it is missed
    missed: str  # what is worse than the tolerance, or why it cannot be compared; else empty


def convert_within(
    tolerance: Tolerance,
    operators: Sequence[str],
    convert: Convert,
    *,
    rank: Measure,
    measure: Measure,
) -> Found:
    """Convert a graph, keeping back the most sensitive operators where the tolerance demands it.

    At most a quarter of them: more would be int8 in name only. The result may still miss the
    tolerance.

    Args:
        tolerance: to be met with some headroom.
        operators: names of those that can be kept back, in the order of the graph.
        convert: returns the graph with the given operators left in float32.
        rank: compares a graph with the original on few images.
        measure: compares a graph with the original.
    """

    def attempt(kept: Collection[str]) -> Found:
        model = convert(kept)
        in_order = [name for name in operators if name in kept]
        return Found(model, in_order, *_judged(measure, model, tolerance))

    def harm(group: Collection[str]) -> float:
        alone = convert([name for name in operators if name not in group])
        return _judged(rank, alone, tolerance)[1]

    best = attempt(())
    if best.strain <= HEADROOM or not operators:
        return best
    worst_first = sorted(_groups(operators), key=harm, reverse=True)
    number = 1
    while best.strain > HEADROOM and number <= math.ceil(len(worst_first) / 4):
        kept = {name for group in worst_first[:number] for name in group}
        best = min(best, attempt(kept), key=lambda found: found.strain)
        number *= 2
    return best


def strain(parity: Parity, tolerance: Tolerance) -> float:
    """Return the largest of the errors as a share of what is tolerated; NaN counts as infinite."""
    shares = (
        parity.max_rel / tolerance.max_rel,
        (1 - parity.cosine) / (1 - tolerance.cosine),
        (1 - parity.top1_agreement) / (1 - tolerance.top1_agreement),
    )
    return max(float("inf") if math.isnan(share) else share for share in shares)


def _groups(operators: Sequence[str]) -> list[list[str]]:
    """Return the operators in at most `GROUPS` runs of neighbours."""
    places = np.array_split(np.arange(len(operators)), min(GROUPS, len(operators)))
    return [[operators[place] for place in part] for part in places]


def _judged(
    measure: Measure, model: ModelProto, tolerance: Tolerance
) -> tuple[Parity | None, float, str]:
    try:
        parity = measure(model)
    except (ParityError, BackendError) as e:
        return None, float("inf"), str(e)
    return parity, strain(parity, tolerance), "; ".join(violations(parity, tolerance))
