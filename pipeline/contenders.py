"""Which engines may be timed: those whose own bytes passed their rung of the parity ladder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendUnavailable
from models.hashing import file_sha256
from pipeline.engines import BACKENDS
from pipeline.params import Build

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Contender:
    """One engine that is proven equal to its graph and can run here.

    Accuracies are those of these very bytes, as its rung of the ladder measured them.
    """

    variant: str
    level: int
    precision: str
    backend: str
    engine: Path
    val_accuracy_pct: float
    test_accuracy_pct: float


@dataclass(frozen=True)
class Refusal:
    """One engine, or a precision that has none, that is not timed."""

    variant: str
    level: int
    precision: str
    backend: str
    reason: str


def contenders(
    variant: str, built: Metrics, verified: Metrics, folder: Path, options: Build
) -> tuple[list[Contender], list[Refusal]]:
    """Sort a variant's engines into those that are timed and those that are not, with the reason.

    Args:
        variant: its name.
        built: the build metrics.
        verified: the verify metrics; an engine without a passed rung there is not timed.
        folder: which the files of the build metrics lie in.
        options: what the engines were built for.

    Raises:
        ArtifactError: an engine file is missing.
    """
    runnable = {name: _unavailable(name, options) for name in BACKENDS}
    timed: list[Contender] = []
    refused: list[Refusal] = []
    for level in built["levels"]:
        number = level["level"]
        rungs = _engine_rungs(verified, number)
        for precision, backend, engine in _engines(level):
            path = folder / engine["file"]
            rung = rungs.get((precision, backend), {})
            reason = _unproven(rung, path) or runnable[backend]
            if reason:
                refused.append(Refusal(variant, number, precision, backend, reason))
            else:
                accuracies = (rung[f"{split}_accuracy_pct"] for split in ("val", "test"))
                timed.append(Contender(variant, number, precision, backend, path, *accuracies))
        refused += [
            Refusal(variant, number, precision, backend, f"not built: {reason}")
            for precision, by_backend in level["failed"].items()
            for backend, reason in by_backend.items()
        ]
    return timed, refused


def graph_of(one: Contender, typed: Metrics) -> str:
    """Return the graph that an engine was built from, as the precision metrics name its file."""
    [level] = [level for level in typed["levels"] if level["level"] == one.level]
    graph = level["graphs"][one.precision]
    file: str = graph.get("files", {}).get(one.backend, graph["file"])
    return file


def not_timed(built: Metrics, timed: list[Contender], refused: list[Refusal]) -> dict[str, str]:
    """Return why a backend was not timed at all, for every backend that was not."""
    reasons = {name: f"not built: {reason}" for name, reason in built["not_available"].items()}
    for refusal in refused:
        reasons.setdefault(refusal.backend, refusal.reason)
    for contender in timed:
        reasons.pop(contender.backend, None)
    return reasons


def _engines(level: Metrics) -> Iterator[tuple[str, str, Metrics]]:
    for precision, by_backend in level["engines"].items():
        for backend, engine in by_backend.items():
            yield precision, backend, engine


def _engine_rungs(verified: Metrics, level: int) -> dict[tuple[str, str], Metrics]:
    return {
        (rung["precision"], rung["backend"]): rung
        for entry in verified["levels"]
        if entry["level"] == level
        for rung in entry["rungs"]
        if rung["rung"] == "engine"
    }


def _unproven(rung: Metrics, engine: Path) -> str | None:
    """Return why the engine may not be timed; None where its rung passed with these very bytes."""
    if not rung:
        return "its parity was not checked"
    if rung["status"] != "passed":
        verb = "failed" if rung["status"] == "failed" else "not run"
        return f"parity {verb}: {rung['reason']}"
    if not engine.exists():
        raise ArtifactError(f"{engine} is missing; `dvc repro` makes it")
    if rung.get("sha256") != file_sha256(engine):
        return "the engine has changed since its parity was checked; `dvc repro` checks it again"
    return None


def _unavailable(backend: str, options: Build) -> str | None:
    check: Callable[[Build], None] = BACKENDS[backend].runnable
    try:
        check(options)
    except BackendUnavailable as e:
        return str(e)
    return None
