"""What of a variant is shipped: one level in one precision, its proven graphs and engines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, ParamsError, ParityError, near_matches
from models.hashing import file_sha256
from pipeline.core.artifacts import metrics_path
from pipeline.core.params import Batch
from pipeline.core.records import read_record
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    ParityCheck,
    PrecisionMetrics,
    TypedGraph,
    VerifyMetrics,
)
from pipeline.plan.records import HealedLevel, HealMetrics

# Engines that run on other machines than the one that built them, raw, as stock tools load them.
PLANS = ("tensorrt", "tensorrt_rtx")
CPU_ENGINE = "its engine is fitted to the CPU that it was built on; it takes the graph instead"


@dataclass(frozen=True)
class VariantMetrics:
    """What decides on shipping: the metrics of four stages."""

    heal: HealMetrics
    precision: PrecisionMetrics
    build: BuildMetrics
    verify: VerifyMetrics


@dataclass(frozen=True)
class ShippedGraph:
    """A graph and the parity check that it passed."""

    record: TypedGraph
    check: ParityCheck

    @property
    def name(self) -> str:
        """Its path in the bundle."""
        return f"model.{self.record.backend}.onnx" if self.record.backend else "model.onnx"

    @property
    def golden(self) -> str:
        """The name of its logits in golden.npz."""
        return f"logits_{self.record.backend}" if self.record.backend else "logits"


@dataclass(frozen=True)
class ShippedEngine:
    """A plan for GPUs and its parity check: passed, or not run on this machine."""

    record: BuiltEngine
    check: ParityCheck

    @property
    def name(self) -> str:
        """Its path in the bundle."""
        return f"engines/{self.record.backend}.plan"


@dataclass(frozen=True)
class Selection:
    """A level of a variant in one precision."""

    variant: str
    level: int
    removed: list[str]
    precision: str
    graphs: list[ShippedGraph]  # the common one first
    engines: list[ShippedEngine]
    skipped: dict[str, str]  # backends without an engine in the bundle, and why
    checks: list[ParityCheck]  # the parity chain of this level in this precision, whole

    @property
    def name(self) -> str:
        """The bundle's name, e.g. ``lacoot-l5-fp32``."""
        return f"{self.variant}-l{self.level}-{self.precision}"


def read_metrics(variant: str) -> VariantMetrics:
    """Read the metrics files that decide on shipping.

    Raises:
        ArtifactError: one is missing, damaged, or of another version of Shoal.
    """
    return VariantMetrics(
        heal=read_record(metrics_path("heal", variant), HealMetrics),
        precision=read_record(metrics_path("precision", variant), PrecisionMetrics),
        build=read_record(metrics_path("build", variant), BuildMetrics),
        verify=read_record(metrics_path("verify", variant), VerifyMetrics),
    )


def select(metrics: VariantMetrics, level: int | None, precision: str) -> Selection:
    """Choose what to ship.

    Args:
        metrics: of the variant.
        level: how many blocks are removed; None for the chosen level.
        precision: of the graph.

    Raises:
        ParamsError: there is no such level, or no graph of that precision.
        ParityError: a check of its parity chain was not passed.
        ArtifactError: the metrics of two stages do not fit each other.
    """
    healed = _level(metrics.heal, level)
    what = f"variant {metrics.heal.variant!r}, level {healed.level}"
    typed = _graphs(metrics.precision, healed.level, precision, what)
    checks = [
        check
        for check in metrics.verify.checks
        if check.level == healed.level and check.precision in (None, precision)
    ]
    _require_proven_network(checks, what)
    graphs, unproven = _proven_graphs(typed, metrics.verify, what)
    engines, skipped = _engines(metrics, healed.level, precision, unproven)
    return Selection(
        variant=metrics.heal.variant,
        level=healed.level,
        removed=healed.removed,
        precision=precision,
        graphs=graphs,
        engines=engines,
        skipped=skipped | {f"graph for {backend}": why for backend, why in unproven.items()},
        checks=checks,
    )


def require_proven(file: Path, check: ParityCheck | None, copied_from: Path | None = None) -> None:
    """Require that a file is the one whose parity was checked, where its hash is known.

    Raises:
        ArtifactError: it has changed since; the message names the file that it was copied from.
    """
    if check and check.sha256 is not None and check.sha256 != file_sha256(file):
        what = copied_from or file
        raise ArtifactError(f"{what} has changed since its parity was checked; run `dvc repro`")


def batches_of(build: BuildMetrics) -> Batch:
    """Return which batches a variant's engines take.

    Raises:
        ArtifactError: the metrics are of a version of Shoal that did not record it.
    """
    if build.batch is None:
        raise ArtifactError(
            f"{metrics_path('build', build.variant)} does not say which batches its engines take; "
            "run `dvc repro`"
        )
    return Batch(**build.batch)


def _level(heal: HealMetrics, wanted: int | None) -> HealedLevel:
    number = heal.chosen_level if wanted is None else wanted
    levels = {healed.level: healed for healed in heal.levels}
    if number not in levels:
        known = _listed(levels)
        raise ParamsError(f"variant {heal.variant!r} has no level {number}; there are {known}")
    return levels[number]


def _graphs(metrics: PrecisionMetrics, level: int, precision: str, what: str) -> list[TypedGraph]:
    """Return the graphs of a level in a precision, the common one first."""
    own = [graph for graph in metrics.graphs if graph.level == level]
    if not own:
        raise ArtifactError(f"{what} is not in the metrics of precision; `dvc repro` adds it")
    found = [graph for graph in own if graph.precision == precision]
    found.sort(key=lambda graph: graph.backend is not None)
    if found and found[0].backend is None:
        return found
    known = [graph.precision for graph in own if graph.backend is None]
    missing = (m.reason for m in metrics.missing if (m.level, m.precision) == (level, precision))
    reason = next(missing, None)
    why = f": {reason}" if reason else near_matches(precision, known)
    raise ParamsError(f"{what} has no precision {precision!r}{why}; there are {_listed(known)}")


def _require_proven_network(checks: Sequence[ParityCheck], what: str) -> None:
    """Raise `ParityError` unless every check above the precisions is passed."""
    for check in checks:
        if check.precision is None and check.status != "passed":
            outcome = f"its check {check.check!r} {_outcome(check)}"
            raise ParityError(f"{what} cannot be shipped: {outcome}")


def _proven_graphs(
    graphs: Sequence[TypedGraph], verify: VerifyMetrics, what: str
) -> tuple[list[ShippedGraph], dict[str, str]]:
    """Return the graphs whose check is passed, and by backend why the others are skipped."""
    shipped, skipped = [], {}
    for graph in graphs:
        proof = _proof(verify, "precision", graph, {"passed"})
        if isinstance(proof, ParityCheck):
            shipped.append(ShippedGraph(graph, proof))
        elif graph.backend is None:
            raise ParityError(f"{what} cannot be shipped in {graph.precision}: {proof}")
        else:
            skipped[graph.backend] = proof
    return shipped, skipped


def _engines(
    metrics: VariantMetrics, level: int, precision: str, without_graph: dict[str, str]
) -> tuple[list[ShippedEngine], dict[str, str]]:
    """Return the plans, and by backend why there are no others."""
    build = metrics.build
    skipped = {name: f"not built: {reason}" for name, reason in build.not_available.items()}
    for missing in build.missing:
        if (missing.level, missing.precision) == (level, precision):
            skipped[missing.backend] = missing.reason
    shipped = []
    for engine in build.engines:
        if (engine.level, engine.precision) == (level, precision):
            proof = _plan_proof(metrics.verify, engine, without_graph)
            if isinstance(proof, str):
                skipped[engine.backend] = proof
            else:
                shipped.append(ShippedEngine(engine, proof))
    return shipped, skipped


def _plan_proof(
    verify: VerifyMetrics, engine: BuiltEngine, without_graph: dict[str, str]
) -> ParityCheck | str:
    """Return the check of a plan, or why it is not shipped.

    A plan that could not be run here is no worse for it: it is proven on the device.
    """
    if engine.backend not in PLANS:
        return CPU_ENGINE
    if engine.backend in without_graph:
        return f"its graph: {without_graph[engine.backend]}"
    return _proof(verify, "engine", engine, {"passed", "not run"})


def _proof(
    verify: VerifyMetrics, kind: str, made: TypedGraph | BuiltEngine, allowed: set[str]
) -> ParityCheck | str:
    """Return the check of a graph or an engine, or why it is not shipped."""
    check = verify.find(made.level, kind, made.precision, made.backend)
    if check is None:
        return "its check is missing: run `dvc repro`"
    return check if check.status in allowed else f"its check {_outcome(check)}"


def _outcome(check: ParityCheck) -> str:
    verb = "failed" if check.status == "failed" else "was not run"
    return f"{verb}: {check.reason or 'no reason given'}"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
