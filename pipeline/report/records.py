"""What `report` writes: reports/summary.json, a row per network and a row per engine."""

from dataclasses import dataclass, field
from functools import cached_property

from pipeline.core.artifacts import REPORTS
from pipeline.report.failures import Failure

SUMMARY = REPORTS / "summary.json"

Network = tuple[str, int, str]  # variant, level, precision: what names a row


@dataclass(frozen=True)
class NetworkRow:
    """A variant at a level in a precision: the graph that every backend builds from."""

    variant: str
    level: int
    precision: str
    removed: list[str]  # by the plan
    removed_in_training: list[str]
    replacement: str
    shipped: str
    chosen: bool  # whether the level is the one that the variant's plan ships
    val_accuracy_pct: float  # of exactly the graph's bytes
    test_accuracy_pct: float
    val_accuracy_by_repair_pct: dict[str, float]  # of the PyTorch network; fp32 alone
    healing: dict[str, float] | None  # seconds, images_seen and macs_spent of fine-tuning
    params: int
    macs: int
    onnx_bytes: int

    @property
    def key(self) -> Network:
        """Return what names the row."""
        return self.variant, self.level, self.precision

    @property
    def all_removed(self) -> list[str]:
        """Return every block that the network lacks, those removed in training first."""
        return [*self.removed_in_training, *self.removed]

    @property
    def removed_text(self) -> str:
        """Return them as a text, those removed in training marked; empty without any."""
        return ", ".join([*(f"{b} (in training)" for b in self.removed_in_training), *self.removed])


@dataclass(frozen=True)
class EngineRow:
    """An engine of a network; accuracies and latencies are None where it was not run."""

    variant: str
    level: int
    precision: str
    backend: str
    bytes: int
    weight_bytes: dict[str, int]
    val_accuracy_pct: float | None  # of exactly the engine's bytes
    test_accuracy_pct: float | None
    batch: int | None  # of the latencies: the largest that was timed
    quiet_ms: float | None  # the 20th percentile: what latencies are compared by
    quiet_ci_ms: tuple[float, float] | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    ratio: float | None = None  # to its backend's reference, where it was in the short pass alone

    @property
    def network(self) -> Network:
        """Return the key of its network's row."""
        return self.variant, self.level, self.precision


@dataclass(frozen=True)
class Candidate:
    """An engine that was proven and timed."""

    variant: str
    level: int
    precision: str
    backend: str
    removed: int  # blocks that the network lacks, those removed in training included
    val_accuracy_pct: float
    test_accuracy_pct: float
    latency_ms: float  # the quiet latency at the largest batch size
    latency_ci_ms: tuple[float, float] | None  # 95 %
    bytes: int

    def is_level_with(self, other: "Candidate") -> bool:
        """Say whether the intervals of both latencies overlap."""
        low, high = self.latency_ci_ms or (self.latency_ms, self.latency_ms)
        others_low, others_high = other.latency_ci_ms or (other.latency_ms, other.latency_ms)
        return low <= others_high and others_low <= high

    @property
    def network(self) -> Network:
        """Return the key of its network's row."""
        return self.variant, self.level, self.precision

    @property
    def label(self) -> str:
        """Return e.g. ``lacoot level 4, int8 on tensorrt``."""
        return f"{self.variant} level {self.level}, {self.precision} on {self.backend}"


@dataclass(frozen=True)
class Choice:
    """What is recommended, what it is compared with, and why it and nothing else."""

    chosen: Candidate | None  # None: nothing obeys the limits
    reference: Candidate | None  # what it is compared with, if timed on the same backend
    reason: str  # one sentence
    level_with: list[Candidate] = field(default_factory=list)  # as fast, within the noise


@dataclass(frozen=True)
class Summary:
    """All variants side by side, and which engine to ship."""

    recommendation: Choice
    failures: dict[str, Failure]
    networks: list[NetworkRow]
    engines: list[EngineRow]
    unsettled: list[str] = field(default_factory=list)  # why latencies may not be believed

    @cached_property
    def timed(self) -> list[Candidate]:
        """Return every engine that was proven and timed, in the order of the rows."""
        return timed(self.networks, self.engines)

    @cached_property
    def engines_by_network(self) -> dict[Network, dict[str, EngineRow]]:
        """Return the engines of every network by backend; no network is missing."""
        found: dict[Network, dict[str, EngineRow]] = {row.key: {} for row in self.networks}
        for engine in self.engines:
            found[engine.network][engine.backend] = engine
        return found

    def network(self, key: Network) -> NetworkRow:
        """Return the row of a network."""
        return next(row for row in self.networks if row.key == key)

    def timed_backends(self) -> list[str]:
        """Return every backend on which an engine was timed."""
        return list(dict.fromkeys(engine.backend for engine in self.timed))


def timed(networks: list[NetworkRow], engines: list[EngineRow]) -> list[Candidate]:
    """Return the engines that were proven and timed, in the order of their rows."""
    removed = {row.key: len(row.all_removed) for row in networks}
    return [
        Candidate(
            engine.variant,
            engine.level,
            engine.precision,
            engine.backend,
            removed[engine.network],
            engine.val_accuracy_pct,
            engine.test_accuracy_pct,
            engine.quiet_ms,
            engine.quiet_ci_ms,
            engine.bytes,
        )
        for engine in engines
        if engine.quiet_ms is not None
        if engine.val_accuracy_pct is not None and engine.test_accuracy_pct is not None
    ]
