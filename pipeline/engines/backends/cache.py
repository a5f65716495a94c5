"""Engines by what they are made of: the same build never runs twice, another never hits.

The key covers the bytes of the graph, precision, backend and its version, the machine the engine is
for, every option but those that change no engine, and the code that builds. An entry is an engine
and a record with its key, its sha256, its log and a digest of all that; what does not fit, or is
not of the precision on its label, is built again.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendError
from models.hashing import file_sha256
from pipeline.core.artifacts import CACHE, digest, locked, read_json, replace_file, write_json
from pipeline.engines.backends.interface import Backend, Job
from pipeline.engines.backends.packages import read
from pipeline.export import session

ENGINES = CACHE / "engines"
OUTSIDE = {"backends", "cache_gb"}  # options that change no engine
RECORD, ENGINE = "record.json", "engine"


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
        """Return the hexadecimal digits that name it."""
        return digest(asdict(self))


@dataclass(frozen=True)
class CachedEngine:
    """What was built: the facts about it, which are fields of `BuiltEngine`, and its log."""

    facts: dict[str, Any]
    log: str


def key_of(name: str, backend: Backend, job: Job) -> Key:
    """Return the key of a job; raises `ArtifactError` where its graph is missing."""
    return Key(
        model_sha256=hashlib.sha256(read(job.source)).hexdigest(),
        precision=job.precision,
        backend=name,
        version=backend.version(),
        target=backend.target(job.options),
        options=job.options.model_dump(mode="json", exclude=OUTSIDE),
        code=_code(),
    )


def cached(
    key: Key,
    job: Job,
    build: Callable[[], CachedEngine],
    folder: Path = ENGINES,
    inspect: Callable[[CachedEngine], CachedEngine] = lambda found: found,
) -> CachedEngine:
    """Write the engine of a job: out of the cache, or built and put there.

    Processes that want the same engine at once wait for the first of them.

    Args:
        key: of the engine.
        job: what is wanted.
        build: writes ``job.target``; what it raises is passed on, and nothing is kept.
        folder: of the cache.
        inspect: takes what was found in the cache, written to ``job.target``, and returns it with
            the facts that the engine itself shows. Where it raises a `BackendError`, the engine is
            built again.
    """
    name = key.digest()
    with locked(folder / name[:2]):  # few locks, for they stay behind
        entry = folder / name
        hit = _fetch(entry, key, job.target, inspect)
        if hit is None:
            hit = build()
            _store(entry, key, job.target, hit)
    _forget(folder, int(job.options.cache_gb * 1e9))
    return hit


def _fetch(
    entry: Path, key: Key, target: Path, inspect: Callable[[CachedEngine], CachedEngine]
) -> CachedEngine | None:
    """Copy an entry's engine to `target`; None, with a warning, where it is not what it says."""
    if not (entry / RECORD).exists():
        return None
    try:
        record = read_json(entry / RECORD)
        shutil.copyfile(entry / ENGINE, target)
        built = CachedEngine(record["facts"], record["log"])
        sealed = record.pop("digest") == digest(record) and record["sha256"] == file_sha256(target)
        intact = sealed and digest(record["key"]) == key.digest()
        found = inspect(built) if intact else None
    except (ArtifactError, BackendError, OSError, KeyError, TypeError):
        found = None
    if found is None:
        print(f"warning: {entry} is damaged; the engine is built again", file=sys.stderr)
        target.unlink(missing_ok=True)
        return None
    os.utime(entry)  # used just now
    return found


def _store(entry: Path, key: Key, engine: Path, built: CachedEngine) -> None:
    """Put an engine into the cache; the record, written last, makes it count."""
    (entry / RECORD).unlink(missing_ok=True)
    with replace_file(entry / ENGINE) as temporary:
        shutil.copyfile(engine, temporary)
    record = {"key": asdict(key), "sha256": file_sha256(engine), **asdict(built)}
    write_json(entry / RECORD, record | {"digest": digest(record)})


def _forget(folder: Path, limit_bytes: int) -> None:
    """Remove the entries used longest ago until the cache fits; other processes may do the same."""
    entries = []
    for entry in filter(Path.is_dir, folder.iterdir()):
        with suppress(FileNotFoundError):
            used = entry.stat().st_mtime_ns
            entries.append((used, sum(file.stat().st_size for file in entry.iterdir()), entry))
    excess = sum(size for _, size, _ in entries) - limit_bytes
    for _, size, entry in sorted(entries):
        if excess <= 0:
            return
        with locked(folder / entry.name[:2]):
            shutil.rmtree(entry, ignore_errors=True)
        excess -= size


def _code() -> str:
    """Return one sha256 of the sources that decide how engines are built."""
    sources = [*sorted(Path(__file__).parent.rglob("*.py")), Path(session.__file__)]
    return hashlib.sha256("".join(map(file_sha256, sources)).encode()).hexdigest()
