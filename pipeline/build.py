"""Build one engine per level and backend: the step between collapsed ONNX files and latencies."""

import time
from pathlib import Path
from typing import Any

from models.errors import BackendError, BackendUnavailable
from pipeline.engines import BACKENDS
from pipeline.params import Build
from pipeline.progress import progress


def build(
    levels: list[dict[str, Any]], source: Path, target: Path, options: Build
) -> dict[str, Any]:
    """Build every level on every backend of `options` that is available here.

    Args:
        levels: of the collapse metrics; their `file` lies in `source`.
        source: the folder of ONNX files.
        target: an existing folder; engines go to ``<backend>/level_<n>.<suffix>`` under it.
        options: the backends, and what their engines must run on.

    Returns:
        The build metrics: why backends are not available, and the engines of every level.

    Raises:
        ArtifactError: an ONNX file is missing.
        BackendError: an engine could not be built, or no backend is available.
    """
    available, not_available = _available(options)
    for name in available:
        (target / name).mkdir()
    return {
        "not_available": not_available,
        "levels": [
            {
                "level": level["level"],
                "removed": level["removed"],
                "engines": {
                    name: _build_one(name, source / level["file"], target, options)
                    for name in available
                },
            }
            for level in progress(levels, "build", unit="level")
        ],
    }


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


def _build_one(name: str, source: Path, target: Path, options: Build) -> dict[str, Any]:
    backend = BACKENDS[name]
    engine = target / name / f"{source.stem}.{backend.suffix}"
    start = time.perf_counter()
    backend.build(source, engine, options)
    seconds = time.perf_counter() - start
    if not engine.exists() or engine.stat().st_size == 0:
        raise BackendError(f"{name} reported success for {source} but wrote no engine")
    return {
        "file": f"{name}/{engine.name}",
        "bytes": engine.stat().st_size,
        "seconds": round(seconds, 3),
        "version": backend.version(),
    }
