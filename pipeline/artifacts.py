"""Where stages put their files, and how a file appears: whole or not at all."""

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.hashing import file_sha256

OBSERVERS = {"pipeline.tracking", "pipeline.runs", "pipeline.store"}  # no result depends on them

ARTIFACTS = Path("artifacts")
METRICS = Path("metrics")
REPORTS = Path("reports")
CACHE = Path(".cache")  # downloads and checkpoints: untracked, survives a stage being run again


def artifacts_dir(stage: str, variant: str | None = None) -> Path:
    """Return the output folder of a stage, e.g. ``artifacts/train/lacoot``."""
    return ARTIFACTS / stage / variant if variant else ARTIFACTS / stage


def metrics_path(stage: str, variant: str | None = None) -> Path:
    """Return the metrics file of a stage, e.g. ``metrics/train/lacoot.json``."""
    return METRICS / stage / f"{variant}.json" if variant else METRICS / f"{stage}.json"


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on failure it is removed."""
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_dir(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it becomes `path`, whole."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """Return a fresh name beside `path`, clearing what a killed run may have left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.is_dir():
        shutil.rmtree(temporary)
    temporary.unlink(missing_ok=True)
    return temporary


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file written by a stage; `ArtifactError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ArtifactError(f"{path} is not valid JSON ({e}); delete it and run `dvc repro`") from e


def require_unchanged(path: Path, sha256: str) -> Path:
    """Return `path` where its contents are those that its stage wrote.

    Raises:
        ArtifactError: it is missing or has been changed.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it")
    if file_sha256(path) != sha256:
        raise ArtifactError(
            f"{path} has changed since it was written and proven; delete its folder and run "
            "`dvc repro --force` on the stage that writes it"
        )
    return path


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def code_digest() -> str:
    """Name the code that is running: the sources of all modules of Shoal loaded so far.

    Those that only watch (docs/decisions/0004) are left out.
    """
    sources = {
        name: file_sha256(Path(module.__file__))
        for name, module in sys.modules.items()
        if name.partition(".")[0] in {"models", "pipeline"}
        and name not in OBSERVERS
        and module.__file__
    }
    return digest(sources)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone.

    Raises:
        ArtifactError: another process holds it, such as a stage that outlived a killed DVC.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ArtifactError(
                f"another process is still writing to {folder}; wait for it or stop it"
            ) from e
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process or thread holds `path`, and hold it: ``<path>.lock``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
