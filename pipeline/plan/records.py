"""What `score`, `plan` and `heal` write: metrics/<stage>/<variant>.json."""

from dataclasses import dataclass, field
from typing import Any, Literal

Repair = Literal["removed", "batch_norm", "healed"]  # removed: as planned, nothing is repaired


@dataclass(frozen=True)
class DeadBlock:
    """A block that only adds a constant on the calibration images."""

    block: str
    largest_deviation: float  # |f(x) − x − c| over the images, in units of E max(|x|, |f(x)|)


@dataclass(frozen=True)
class PlannedLevel:
    """A network without some of its blocks, as planned."""

    level: int
    removed: list[str]
    replacement: str  # identity | bias | affine | linear
    val_accuracy_pct: float  # of the PyTorch network
    val_accuracy_by_replacement_pct: dict[str, float]
    latency_ms: float | None = None  # where the search measures it


@dataclass(frozen=True)
class PlanMetrics:
    """A plan: the order of removal, every level, the level to ship."""

    variant: str
    search: str
    criterion: str
    max_accuracy_drop_pct: float
    order: list[str]
    not_removable: dict[str, str]  # scored blocks that are missing in the graph, and why
    levels: list[PlannedLevel]
    chosen_level: int
    dead: list[DeadBlock] = field(default_factory=list)
    scores: dict[str, float] | None = None  # greedy: each block's when it was removed
    latency_budget_ms: float | None = None
    latency_batch: int | None = None
    whole_ms: float | None = None  # latency_aware: of the whole network
    savings_ms: dict[str, float] | None = None  # latency_aware: of each block alone
    measured_on: dict[str, Any] | None = None  # latency_aware: the machine and the protocol


@dataclass(frozen=True)
class Healing:
    """What fine-tuning a level took."""

    seconds: float
    images_seen: int
    macs_spent: int
    epochs: list[dict[str, Any]]


@dataclass(frozen=True)
class HealedLevel:
    """A level with every repair that was made of it."""

    level: int
    removed: list[str]
    replacement: str
    shipped: Repair
    val_accuracy_pct: dict[Repair, float]  # of the PyTorch network, by repair
    healing: Healing | None = None

    @property
    def is_repaired(self) -> bool:
        """Say whether the level is shipped with other weights than planned."""
        return self.shipped != "removed"

    @property
    def shipped_accuracy_pct(self) -> float:
        """Return the validation accuracy of what is shipped."""
        return self.val_accuracy_pct[self.shipped]


@dataclass(frozen=True)
class HealMetrics:
    """Every level, and the level to ship."""

    variant: str
    ship: Repair
    bn_samples: int
    epochs: int
    learning_rate: float
    distill: dict[str, float]
    device: str
    levels: list[HealedLevel]
    chosen_level: int
