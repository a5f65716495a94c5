"""Build one engine per level, precision and backend: the step between typed graphs and proofs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.errors import BackendError, BackendUnavailable, PrecisionError
from pipeline.artifacts import CACHE
from pipeline.engines import BACKENDS
from pipeline.engines.building import build_engine
from pipeline.engines.interface import Job
from pipeline.params import Build
from pipeline.progress import progress

TIMINGS = CACHE / "timings"
REASON_CHARS = 500  # builders can be talkative; the whole is in the log beside the engine


def build(
    levels: list[dict[str, Any]], source: Path, target: Path, options: Build
) -> dict[str, Any]:
    """Build every graph on every backend of `options` that is available here.

    Args:
        levels: of the precision metrics: their `graphs` by precision, which lie in `source`.
        source: the folder of ONNX files.
        target: an existing folder; engines go to ``<precision>/<backend>/level_<n>.<suffix>`` under
            it, with a log beside each.
        options: the backends, and what their engines must run on.

    Returns:
        The build metrics: why backends are not available, and per level its engines and why others
        could not be built. They are the same again when engines come out of the cache.

    Raises:
        ArtifactError: an ONNX file is missing.
        PrecisionError: a graph or an engine is not of the precision on its label.
        BackendError: a backend could build no fp32 engine at all, or none is available.
    """
    available, not_available = _available(options)
    built: list[dict[str, Any]] = [
        {"level": level["level"], "removed": level["removed"], "engines": {}, "failed": {}}
        for level in levels
    ]
    jobs = list(_jobs(levels, available, source, target, options))
    for number, backend, job in progress(jobs, "build", unit="engine"):
        where, what = _build_one(backend, job, target)
        built[number][where].setdefault(job.precision, {})[backend] = what
    _require_fp32(available, built)
    return {"not_available": not_available, "levels": built}


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
    levels: list[dict[str, Any]], backends: list[str], source: Path, target: Path, options: Build
) -> Iterator[tuple[int, str, Job]]:
    """Yield the number of the level in the list, the backend, and the job."""
    for number, level in enumerate(levels):
        for precision, graph in level["graphs"].items():
            for backend in backends:
                file = graph.get("files", {}).get(backend, graph["file"])
                name = f"level_{level['level']}.{BACKENDS[backend].suffix}"
                engine = target / precision / backend / name
                engine.parent.mkdir(parents=True, exist_ok=True)
                yield number, backend, Job(source / file, engine, precision, options, TIMINGS)


def _build_one(backend: str, job: Job, target: Path) -> tuple[str, Any]:
    """Return ``"engines"`` and the facts about the engine, or ``"failed"`` and the reason."""
    log = job.target.with_suffix(".log")
    try:
        engine = build_engine(backend, job)
    except PrecisionError:
        raise
    except BackendError as e:
        log.write_text(f"{e}\n", encoding="utf-8")
        return "failed", " ".join(str(e).split())[:REASON_CHARS]
    log.write_text(engine.log, encoding="utf-8")
    return "engines", {"file": job.target.relative_to(target).as_posix(), **engine.facts}


def _require_fp32(backends: list[str], built: list[dict[str, Any]]) -> None:
    for backend in backends:
        failed = [level["failed"].get("fp32", {}).get(backend) for level in built]
        if failed and all(failed):
            raise BackendError(
                f"{backend} can build no level in fp32 ({failed[0]}); leave it out of "
                "build.backends, or mend what it says"
            )
