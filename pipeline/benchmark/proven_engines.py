"""Which engines may be timed: those whose own bytes passed their check of the parity chain."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from models.errors import ArtifactError, BackendUnavailable
from models.hashing import file_sha256
from pipeline.benchmark.records import SkippedEngine, TimedEngine
from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import artifacts_dir, metrics_path
from pipeline.core.params import Build
from pipeline.core.records import read_record
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    ParityCheck,
    PrecisionMetrics,
    VerifyMetrics,
)


@dataclass(frozen=True)
class ProvenEngine(TimedEngine):
    """An engine that is proven equal to its graph and can run here.

    Accuracies are those of these very bytes, as its check of the chain measured them.
    """

    engine: Path
    graph: Path  # the ONNX file that it was built from

    @property
    def timed(self) -> TimedEngine:
        """Return it as it stands in metrics files."""
        return TimedEngine(**{one.name: getattr(self, one.name) for one in fields(TimedEngine)})


@dataclass(frozen=True)
class Engines:
    """The engines of one variant or several, by whether they are timed.

    Attributes:
        proven: those that are timed.
        skipped: those that are not, with the reason.
        not_available: backends that nothing was built for, and why.
    """

    proven: list[ProvenEngine]
    skipped: list[SkippedEngine]
    not_available: dict[str, str]

    def not_timed(self) -> dict[str, str]:
        """Return why a backend is not timed at all, for every backend that is not."""
        reasons = {name: f"not built: {reason}" for name, reason in self.not_available.items()}
        for skipped in self.skipped:
            reasons.setdefault(skipped.backend, skipped.reason)
        timed = {one.backend for one in self.proven}
        return {name: reason for name, reason in reasons.items() if name not in timed}


def proven_engines(variants: Iterable[str], options: Build) -> Engines:
    """Sort the engines of variants into those that are timed and those that are not.

    Args:
        variants: an engine without a passed check in their verify metrics is not timed.
        options: what the engines were built for.

    Raises:
        ArtifactError: an engine or a metrics file is missing.
    """
    unavailable = {name: _unavailable(name, options) for name in BACKENDS}
    found = Engines([], [], {})
    for variant in variants:
        _add(found, variant, unavailable)
    return found


def _add(found: Engines, variant: str, unavailable: Mapping[str, str]) -> None:
    built = read_record(metrics_path("build", variant), BuildMetrics)
    verified = read_record(metrics_path("verify", variant), VerifyMetrics)
    typed = read_record(metrics_path("precision", variant), PrecisionMetrics)
    collapsed = read_record(metrics_path("collapse", variant), CollapseMetrics)
    removed = {level.level: tuple(level.removed) for level in collapsed.levels}
    for one in built.engines:
        engine = artifacts_dir("build", variant) / one.file
        proof = _proof(verified.find(one.level, "engine", one.precision, one.backend), engine)
        proof = proof if isinstance(proof, str) else unavailable[one.backend] or proof
        key = (variant, one.level, one.precision, one.backend)
        if isinstance(proof, str):
            found.skipped.append(SkippedEngine(*key, proof))
        else:
            graph = artifacts_dir("precision", variant) / _graph(typed, one)
            found.proven.append(ProvenEngine(*key, removed[one.level], *proof, engine, graph))
    found.skipped.extend(
        SkippedEngine(variant, one.level, one.precision, one.backend, f"not built: {one.reason}")
        for one in built.missing
    )
    found.not_available.update(built.not_available)


def _graph(typed: PrecisionMetrics, one: BuiltEngine) -> str:
    graph = typed.graph(one.level, one.precision, one.backend)
    if graph is None:
        raise ArtifactError(
            f"the metrics of `precision` have no {one.precision} graph of level {one.level}, which "
            f"{one.file} was built from; `dvc repro` makes it"
        )
    return graph.file


def _proof(check: ParityCheck | None, engine: Path) -> tuple[float, float] | str:
    """Return both accuracies of the engine's very bytes, or why it may not be timed."""
    if check is None:
        return "its parity was not checked"
    if check.status != "passed":
        return f"parity {check.status}: {check.reason}"
    if check.val_accuracy_pct is None or check.test_accuracy_pct is None:
        return "its accuracy was not measured"
    if not engine.exists():
        raise ArtifactError(f"{engine} is missing; `dvc repro` makes it")
    if check.sha256 != file_sha256(engine):
        return "the engine has changed since its parity was checked; `dvc repro` checks it again"
    return check.val_accuracy_pct, check.test_accuracy_pct


def _unavailable(backend: str, options: Build) -> str:
    try:
        BACKENDS[backend].runnable(options)
    except BackendUnavailable as e:
        return str(e)
    return ""
