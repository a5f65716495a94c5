"""Engines by what they are made of: the same build never runs twice, another never hits.

The key covers the bytes of the graph, precision, backend and its version, the machine the engine is
for, every option but those that change no engine, and the code that builds. An entry is an engine,
its log and a record with the sha256 of both; one that does not match its record is built again.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.artifacts import CACHE, locked, read_json, replace_file, write_json
from pipeline.engines.interface import Backend, Job

ENGINES = CACHE / "engines"
OUTSIDE = {"backends", "cache_gb"}  # options that change no engine
RECORD, ENGINE, LOG = "record.json", "engine", "log"


@dataclass(frozen=True)
class Key:
    """All that an engine depends on."""

    model_sha256: str
    precision: str
    backend: str
    version: str
    target: Mapping[str, Any]
    options: Mapping[str, Any]
    code: str

    def digest(self) -> str:
        """Return the sha256 that names the key, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class BuiltEngine:
    """What was built: the facts about it, and its log."""

    facts: dict[str, Any]
    log: str


def key_of(name: str, backend: Backend, job: Job) -> Key:
    """Return the key of a job; raises `ArtifactError` where its graph is missing."""
    if not job.source.exists():
        raise ArtifactError(f"{job.source} is missing; `dvc repro` makes it")
    return Key(
        model_sha256=file_sha256(job.source),
        precision=job.precision,
        backend=name,
        version=backend.version(),
        target=backend.target(job.options),
        options=job.options.model_dump(mode="json", exclude=OUTSIDE),
        code=_code(),
    )


def cached(
    key: Key, job: Job, build: Callable[[], BuiltEngine], folder: Path = ENGINES
) -> BuiltEngine:
    """Write the engine of a job: out of the cache, or built and put there.

    Processes that want the same engine at once wait for the first of them.

    Args:
        key: of the job.
        job: `target` is written.
        build: writes ``job.target``; what it raises is passed on, and nothing is kept.
        folder: of the cache.
    """
    name = key.digest()
    with locked(folder / name[:2]):  # few locks, for they stay behind
        entry = folder / name
        hit = _fetch(entry, job.target)
        if hit is None:
            hit = build()
            _store(entry, key, job.target, hit)
    _forget(folder, int(job.options.cache_gb * 1e9))
    return hit


def _fetch(entry: Path, target: Path) -> BuiltEngine | None:
    """Copy an entry's engine to `target`; None, with a warning, where it is damaged."""
    if not (entry / RECORD).exists():
        return None
    try:
        record = read_json(entry / RECORD)
        shutil.copyfile(entry / ENGINE, target)
        log = (entry / LOG).read_text(encoding="utf-8")
        intact = record["sha256"] == _hashes(target, log)
    except (ArtifactError, OSError, UnicodeDecodeError, KeyError, TypeError):
        intact = False
    if not intact:
        print(f"warning: {entry} is damaged; the engine is built again", file=sys.stderr)
        target.unlink(missing_ok=True)
        return None
    os.utime(entry)  # used just now
    return BuiltEngine(record["facts"], log)


def _store(entry: Path, key: Key, engine: Path, built: BuiltEngine) -> None:
    """Put an engine into the cache; the record, written last, makes it count."""
    (entry / RECORD).unlink(missing_ok=True)
    with replace_file(entry / ENGINE) as temporary:
        shutil.copyfile(engine, temporary)
    with replace_file(entry / LOG) as temporary:
        temporary.write_text(built.log, encoding="utf-8")
    hashes = _hashes(engine, built.log)
    write_json(entry / RECORD, {"key": asdict(key), "sha256": hashes, "facts": built.facts})


def _forget(folder: Path, limit_bytes: int) -> None:
    """Remove the entries used longest ago until the cache fits."""
    entries = sorted(_sizes(folder).items(), key=lambda item: item[1])
    excess = sum(size for _, (_, size) in entries) - limit_bytes
    for entry, (_, size) in entries:
        if excess <= 0:
            return
        with locked(folder / entry.name[:2]):
            shutil.rmtree(entry, ignore_errors=True)
        excess -= size


def _sizes(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return when each entry was used last, and its bytes; other processes may be removing some."""
    sizes = {}
    for entry in filter(Path.is_dir, folder.iterdir()):
        with suppress(FileNotFoundError):
            used = entry.stat().st_mtime_ns
            sizes[entry] = used, sum(file.stat().st_size for file in entry.iterdir())
    return sizes


def _hashes(engine: Path, log: str) -> dict[str, str]:
    return {"engine": file_sha256(engine), "log": hashlib.sha256(log.encode()).hexdigest()}


def _code() -> str:
    """Return one sha256 of the sources of this package, which decide how engines are built."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256("".join(map(file_sha256, sources)).encode()).hexdigest()
