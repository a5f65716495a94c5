"""What `precision`, `build` and `verify` write: flat records by level, precision and backend.

As text, a record is the line that its stage prints.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.export.parity import Parity

Kind = Literal["onnx", "collapsed onnx", "precision", "engine"]
Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class TypedGraph:
    """A level's graph in one precision; of one backend alone where `backend` is set."""

    level: int
    precision: str
    backend: str | None
    file: str
    bytes: int
    weight_bytes: dict[str, int]  # by data type as ONNX names it
    operators: dict[str, dict[str, int]]  # by kind and the type they compute in
    kept_fp32: list[dict[str, str]]  # {name, op_type} of operators kept in float32
    calibration_parity: Parity | None  # against the float32 graph; None: it is that graph
    seconds: float

    def __str__(self) -> str:
        kept = len(self.kept_fp32)
        stays = f", {kept} operators stay in float32" if kept else ""
        return f"{_name(self)}: {self.bytes:,} bytes{stays}"


@dataclass(frozen=True)
class MissingGraph:
    """A precision, or one backend's graph of it, that could not be made."""

    level: int
    precision: str
    backend: str | None
    reason: str

    def __str__(self) -> str:
        return f"{_name(self)}: failed, {self.reason}"


@dataclass(frozen=True)
class PrecisionMetrics:
    """Every graph of a variant."""

    variant: str
    calibration: dict[str, Any]  # split, images, seed, ranges
    graphs: list[TypedGraph]
    missing: list[MissingGraph]

    def graph(self, level: int, precision: str, backend: str | None) -> TypedGraph | None:
        """Return the graph that a backend builds from: its own, else the common one."""
        found = {
            graph.backend: graph
            for graph in self.graphs
            if (graph.level, graph.precision) == (level, precision)
        }
        return found.get(backend) or found.get(None)


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and how its precision is known."""

    level: int
    precision: str
    backend: str
    file: str
    bytes: int
    seconds: float
    version: str  # of the backend's package
    evidence_method: str  # how the precision was found out, e.g. ``optimised graph``
    weight_bytes: dict[str, int]  # of the weights seen in it, by data type
    operators: dict[str, int]  # convolutions and matrix products by the type they compute in
    weights_not_found: int
    evidence_note: str | None  # what could not be seen, and why
    compute_capabilities: list[str] | None = None  # of GPUs that the plan runs on

    def __str__(self) -> str:
        return f"{_name(self)}: {self.bytes:,} bytes in {self.seconds:.2f} s"


@dataclass(frozen=True)
class MissingEngine:
    """An engine that could not be built."""

    level: int
    precision: str
    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{_name(self)}: no engine: {self.reason}"


@dataclass(frozen=True)
class BuildMetrics:
    """Every engine of a variant."""

    variant: str
    not_available: dict[str, str]  # backends, and why
    engines: list[BuiltEngine]
    missing: list[MissingEngine]
    batch: dict[str, int] | None = None  # the profile of every engine: min, opt, max


@dataclass(frozen=True)
class ParityCheck:
    """One check of the parity chain: something computed, what it is compared with, a verdict.

    Numbers are absent where nothing was computed; then the status is not ``passed``.
    """

    level: int
    check: Kind
    reference: str  # what it is compared with, e.g. ``bypassed torch``
    precision: str | None
    backend: str | None
    status: Status
    reason: str | None  # why it failed or was not run, or how it was run
    tolerance: dict[str, float]
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    val_accuracy_pct: float | None = None
    test_accuracy_pct: float | None = None
    sha256: str | None = None  # of the graph's or engine's file: what was proven is these bytes

    def __str__(self) -> str:
        what = f"{_name(self)} against {self.reference}: {self.status}"
        if self.status != "passed":
            return f"{what}, {self.reason}"
        accuracy = self.test_accuracy_pct
        shown = "" if accuracy is None else f", test {accuracy:.2f} %"
        return f"{what}, off by {self.max_rel:.1e}{shown}"


def _name(record: TypedGraph | MissingGraph | BuiltEngine | MissingEngine | ParityCheck) -> str:
    """Return e.g. ``level 1  int8 onnxruntime``, of a check with what was checked."""
    kind = record.check.replace("precision", "graph") if isinstance(record, ParityCheck) else None
    words = filter(None, [record.precision, record.backend, kind])
    return f"level {record.level}  {' '.join(words)}"


@dataclass(frozen=True)
class VerifyMetrics:
    """Every check of a variant."""

    variant: str
    images: int
    checks: list[ParityCheck]

    def find(
        self, level: int, check: str, precision: str | None, backend: str | None
    ) -> ParityCheck | None:
        """Return that check; None where there is none."""
        wanted = (level, check, precision, backend)
        return next(
            (c for c in self.checks if (c.level, c.check, c.precision, c.backend) == wanted), None
        )
