"""Build one engine per level, precision and backend: the step between typed graphs and proofs."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile

from models.errors import BackendError, BackendUnavailable, PrecisionError
from pipeline.core.params import Build
from pipeline.core.progress import progress
from pipeline.engines.backends.cache import CachedEngine, Key, cached, key_of
from pipeline.engines.backends.inspection import require_graph, require_precision
from pipeline.engines.backends.interface import Job, PrecisionEvidence
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.records import BuildMetrics, BuiltEngine, MissingEngine, PrecisionMetrics

REASON_CHARS = 500  # the whole is in the log beside the engine


def build(typed: PrecisionMetrics, source: Path, target: Path, options: Build) -> BuildMetrics:
    """Build every graph on every backend of `options` that is available here.

    The metrics are the same again when engines come out of the cache.

    Args:
        typed: the graphs of a variant, whose files lie in `source`.
        source: the folder of ONNX files.
        target: an existing folder; engines go to ``<precision>/<backend>/level_<n>.<suffix>`` under
            it, with a log beside each.
        options: the backends, and what their engines must run on.

    Raises:
        ArtifactError: an ONNX file is missing.
        PrecisionError: a graph or an engine is not of the precision on its label.
        BackendError: a backend could build no fp32 engine at all, or none is available.
    """
    available, not_available = _available(options)
    engines: list[BuiltEngine] = []
    missing: list[MissingEngine] = []
    jobs = list(_jobs(typed, available, source, target, options))
    for level, backend, job in progress(jobs, "build", unit="engine"):
        key, log = (level, job.precision, backend), job.target.with_suffix(".log")
        try:
            built = build_engine(backend, job)
        except PrecisionError:
            raise
        except BackendError as e:
            log.write_text(f"{e}\n", encoding="utf-8")
            missing.append(MissingEngine(*key, " ".join(str(e).split())[:REASON_CHARS]))
        else:
            log.write_text(built.log, encoding="utf-8")
            file = job.target.relative_to(target).as_posix()
            engines.append(BuiltEngine(*key, file, **built.facts))
    _require_fp32(available, engines, missing)
    batch = options.batch.model_dump()
    return BuildMetrics(typed.variant, not_available, engines, missing, batch)


def build_engine(name: str, job: Job) -> CachedEngine:
    """Write an engine to ``job.target``, out of the cache where the same one was built before.

    What is returned is the same again when the engine comes out of the cache.

    Raises:
        ArtifactError: there is no such graph.
        BackendError: the graph cannot be built; no engine is left behind.
        PrecisionError: graph or engine are not of the precision on the label; likewise.
        OSError: the engine cannot be written.
    """
    key = key_of(name, BACKENDS[name], job)

    def inspected(found: CachedEngine) -> CachedEngine:
        return CachedEngine(found.facts | asdict(_evidence(name, job)), found.log)

    return cached(key, job, lambda: _build(name, key, job), inspect=inspected)


def _evidence(name: str, job: Job) -> PrecisionEvidence:
    """Return what an engine shows of its precision; raises as `require_precision`."""
    evidence = BACKENDS[name].inspect(job)
    require_precision(name, BACKENDS[name].strongly_typed, job, evidence)
    return evidence


def _build(name: str, key: Key, job: Job) -> CachedEngine:
    backend = BACKENDS[name]
    try:
        require_graph(job)
        start = time.perf_counter()
        messages = backend.build(job)
        seconds = time.perf_counter() - start
        if not job.target.exists() or job.target.stat().st_size == 0:
            raise BackendError(f"{name} reported success for {job.source} but wrote no engine")
        evidence = _evidence(name, job)
    except BackendError:
        job.target.unlink(missing_ok=True)
        _require_room(job)
        raise
    facts = {
        "bytes": job.target.stat().st_size,
        "seconds": round(seconds, 3),
        "version": key.version,
        **asdict(evidence),
        "compute_capabilities": key.target.get("compute_capabilities"),
    }
    lines = [
        f"{name} {key.version}, {key.precision}, of a graph with sha256 {key.model_sha256}",
        f"target: {json.dumps(key.target)}",
        f"options: {json.dumps(key.options)}",
        f"engine: {json.dumps(facts)}",
        f"{len(messages)} warnings",
        *messages,
    ]
    return CachedEngine(facts, "\n".join(lines) + "\n")


def _require_room(job: Job) -> None:
    """Raise `OSError` where the disk has no room for an engine: then that is why there is none."""
    with NamedTemporaryFile(dir=job.target.parent) as file:
        os.posix_fallocate(file.fileno(), 0, job.source.stat().st_size)


def _available(options: Build) -> tuple[list[str], dict[str, str]]:
    available: list[str] = []
    not_available: dict[str, str] = {}
    for name in dict.fromkeys(options.backends):
        try:
            BACKENDS[name].check()
            available.append(name)
        except BackendUnavailable as e:
            not_available[name] = str(e)
    if not available:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_available.items())
        raise BackendUnavailable(
            f"no backend of build.backends = {list(options.backends)} can build here ({reasons}); "
            f"there are {', '.join(BACKENDS)}"
        )
    return available, not_available


def _jobs(
    typed: PrecisionMetrics, backends: list[str], source: Path, target: Path, options: Build
) -> Iterator[tuple[int, str, Job]]:
    """Yield level, backend and job of every engine that there should be."""
    for level, precision in dict.fromkeys((graph.level, graph.precision) for graph in typed.graphs):
        for backend in backends:
            graph = typed.graph(level, precision, backend)
            if graph is None:
                continue
            engine = target / precision / backend / f"level_{level}.{BACKENDS[backend].suffix}"
            engine.parent.mkdir(parents=True, exist_ok=True)
            yield level, backend, Job(source / graph.file, engine, precision, options)


def _require_fp32(
    backends: list[str], engines: list[BuiltEngine], missing: list[MissingEngine]
) -> None:
    built = {engine.backend for engine in engines if engine.precision == "fp32"}
    for backend in backends:
        reasons = [m.reason for m in missing if (m.precision, m.backend) == ("fp32", backend)]
        if reasons and backend not in built:
            raise BackendError(
                f"{backend} can build no level in fp32 ({reasons[0]}); remove it from "
                "build.backends, or repair what the message names"
            )
