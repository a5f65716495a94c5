"""Build one engine, keep its log, and let it through only if it is of the precision it claims."""

import json
import os
import time
from dataclasses import asdict
from tempfile import NamedTemporaryFile

from models.errors import BackendError
from pipeline.engines import BACKENDS
from pipeline.engines.cache import BuiltEngine, Key, cached, key_of
from pipeline.engines.inspection import require_graph, require_precision, require_written
from pipeline.engines.interface import Evidence, Job


def build_engine(name: str, job: Job) -> BuiltEngine:
    """Write an engine to ``job.target``, out of the cache where the same one was built before.

    Returns:
        Its facts, among them the seconds of the build and the evidence for its precision, and its
        log. They are the same again when the engine comes out of the cache.

    Raises:
        ArtifactError: there is no such graph.
        BackendError: the graph cannot be built; no engine is left behind.
        PrecisionError: graph or engine are not of the precision on the label; likewise.
        OSError: the engine cannot be written.
    """
    key = key_of(name, BACKENDS[name], job)
    return cached(key, job, lambda: _build(name, key, job))


def _build(name: str, key: Key, job: Job) -> BuiltEngine:
    backend = BACKENDS[name]
    try:
        require_graph(job)
        start = time.perf_counter()
        messages = backend.build(job)
        seconds = time.perf_counter() - start
        require_written(name, job)
        evidence = backend.inspect(job)
        require_precision(name, backend.strongly_typed, job, evidence)
    except BackendError:
        job.target.unlink(missing_ok=True)
        _require_room(job)
        raise
    facts = {
        "bytes": job.target.stat().st_size,
        "seconds": round(seconds, 3),
        "version": key.version,
        "evidence": asdict(evidence),
        **{name: key.target[name] for name in ("compute_capabilities",) if name in key.target},
    }
    return BuiltEngine(facts, _log(key, facts, evidence, messages))


def _require_room(job: Job) -> None:
    """Raise `OSError` where the disk has no room for an engine: then that is why there is none."""
    with NamedTemporaryFile(dir=job.target.parent) as file:
        os.posix_fallocate(file.fileno(), 0, job.source.stat().st_size)


def _log(key: Key, facts: dict[str, object], evidence: Evidence, messages: list[str]) -> str:
    lines = [
        f"{key.backend} {key.version}, {key.precision}, of a graph with sha256 {key.model_sha256}",
        f"target: {json.dumps(key.target)}",
        f"options: {json.dumps(key.options)}",
        f"built in {facts['seconds']} s, {facts['bytes']} bytes",
        f"evidence: {json.dumps(asdict(evidence))}",
        f"{len(messages)} warnings",
        *messages,
    ]
    return "\n".join(lines) + "\n"
