"""What `benchmark` writes: flat records of one interleaved run, by engine and batch size."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Interval = tuple[float, float]
Step = Literal["depth", "precision", "both", "precision after depth"]
Word = Literal["slower", "no faster", "free", "costs accuracy"]
LayerKind = Literal["block", "outside blocks", "fused across blocks", "unknown"]


@dataclass(frozen=True)
class EngineKey:
    """What every record names its engine by."""

    variant: str
    level: int
    precision: str
    backend: str

    @property
    def key(self) -> tuple[str, int, str, str]:
        """Return the four fields, which no two engines share."""
        return self.variant, self.level, self.precision, self.backend

    @property
    def network(self) -> str:
        """Return the network in words, e.g. ``dense level 0 fp32``."""
        return f"{self.variant} level {self.level} {self.precision}"


@dataclass(frozen=True)
class TimedEngine(EngineKey):
    """An engine that was timed, with the accuracies that its parity check measured."""

    removed: tuple[str, ...]  # the blocks that its network lacks by the plan
    val_accuracy_pct: float
    test_accuracy_pct: float


@dataclass(frozen=True)
class EngineRatio(EngineKey):
    """How long an engine took that was in the short pass alone, at the largest batch."""

    reference: str  # in words, on the same backend
    ratio: float  # of its latency to the reference's, timed in turn with it alone
    ratio_ci: Interval | None  # 95 %


@dataclass(frozen=True)
class EngineLatency(EngineKey):
    """What one engine took for one batch, from host memory to host memory."""

    batch: int
    quiet_ms: float  # the 20th percentile: what latencies are compared by
    quiet_ci_ms: Interval | None  # 95 %
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    warmup_calls: int
    warmed_up: bool  # whether durations had become stable before they counted
    device_quiet_ms: float | None = None  # on the device alone, between two CUDA events
    device_quiet_ci_ms: Interval | None = None
    device_p50_ms: float | None = None
    device_p90_ms: float | None = None
    device_p99_ms: float | None = None
    device_how: str | None = None  # ``CUDA graph``, or ``enqueue`` and why


@dataclass(frozen=True)
class LatencySaving(EngineKey):
    """What removing blocks saved against the level before, in the same rounds."""

    batch: int
    blocks: list[str]  # removed here and not there; one, where every level was timed
    since_level: int
    ms: float  # difference of the quiet latencies; negative where the level is slower
    ms_ci: Interval | None  # 95 %; within the noise where it holds 0


@dataclass(frozen=True)
class Verdict:
    """What a step from one engine to another on the same backend was worth, in the same rounds."""

    step: Step
    backend: str
    batch: int
    before: str  # the network, e.g. ``dense level 0 fp32``
    after: str
    word: Word  # ``no faster``: the saving is within the noise; ``free``: no accuracy was lost
    saved_ms: float  # difference of the quiet latencies; negative where the step made it slower
    saved_ms_ci: Interval | None
    times: float  # how many times as fast
    lost_points: float  # of validation accuracy; negative where some were gained
    ms_per_point: float | None  # saved per point lost; where the word is ``costs accuracy``


@dataclass(frozen=True)
class EngineMemory(EngineKey):
    """What an engine adds to the memory of a process of its own."""

    place: str  # host | device
    batch: int
    loaded_bytes: int  # the weights as the engine holds them, and its own bookkeeping
    activations_bytes: int  # on top, and kept after a run
    peak_bytes: int | None  # host: resident, with the code that was read in


@dataclass(frozen=True)
class EngineEnergy(EngineKey):
    """Energy per image at the largest batch, by one meter."""

    meter: str  # e.g. ``gpu0``, ``cpu0``, ``soc total``
    mj_per_image: float


@dataclass(frozen=True)
class LayerShare(EngineKey):
    """The time of an engine's layers that compute one block, at the largest batch."""

    kind: LayerKind
    block: str  # joined by ' + ' where layers are fused across blocks; else empty for no block
    ms: float


@dataclass(frozen=True)
class SkippedEngine(EngineKey):
    """An engine that was not timed."""

    reason: str


@dataclass(frozen=True)
class BenchmarkMetrics:
    """One run over all variants: the machine, how it was timed, and every number."""

    target: dict[str, Any]
    protocol: dict[str, Any]
    conditions: dict[str, Any]
    not_timed: dict[str, str]  # backends without any timed engine, and why
    no_energy: dict[str, str]  # by meter
    no_memory: dict[str, str]  # by backend
    latencies: list[EngineLatency]
    savings: list[LatencySaving]
    memory: list[EngineMemory]
    energy: list[EngineEnergy]
    layers: list[LayerShare]
    skipped: list[SkippedEngine]
    engines: list[TimedEngine] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    ratios: list[EngineRatio] = field(default_factory=list)  # of what was not worth a full pass
    unsettled: list[str] = field(default_factory=list)  # why its latencies may not be believed

    def of(self, variant: str) -> "BenchmarkMetrics":
        """Return what is about one variant, with all that is about the run."""
        own: dict[str, Any] = {
            name: [one for one in records if one.variant == variant]
            for name, records in vars(self).items()
            if isinstance(records, list) and records and isinstance(records[0], EngineKey)
        }
        return replace(self, **own)
