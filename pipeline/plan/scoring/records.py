"""What `score` writes: metrics/score/<variant>.json."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredUnit:
    """A unit of the network, as `models.units.Unit` has it."""

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    removable: bool
    reason: str  # why it cannot be removed
    entering: str
    leaving: str


@dataclass(frozen=True)
class Guard:
    """How close a unit is to the identity: equal distributions do not make it one."""

    displacement: float
    cosine: float


@dataclass(frozen=True)
class ScoreMetrics:
    """Every unit, and the scores of those that can be removed."""

    variant: str
    samples: int
    mode: str
    unit: str
    criterion: str  # what the mode orders by
    blocks: list[ScoredUnit]
    scores: dict[str, dict[str, float]]  # criterion → unit → score; low: remove first
    guards: dict[str, Guard]  # by unit
