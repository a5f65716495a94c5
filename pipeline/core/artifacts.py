"""Where stages put their files, and how a file appears: whole or not at all."""

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO

from models.errors import ArtifactError
from models.hashing import file_sha256

SOURCE = Path(__file__).parents[2]  # with dvc.yaml, which lists the code of every stage
CODE = ("models", "pipeline", "stages")  # how its paths begin
SECTIONS = "pipeline/core/params/"

ARTIFACTS = Path("artifacts")
METRICS = Path("metrics")
REPORTS = Path("reports")
SILENT_S, POLL_S = 1.0, 0.05  # of a wait for a lock
SUFFIX = ".tmp"  # of what is not whole yet
CACHE = Path(".cache")  # downloads and checkpoints: untracked, survives a stage being run again
KNOWN = CACHE / "sha256.json"  # by path: a file's sha256, and its size, times and inode then
SETTLED_NS = 2_000_000_000  # a file written to this lately may be written to again at equal times


def require_own_folder() -> None:
    """Raise `ArtifactError` where results would leave the project: DVC takes none from there."""
    if ARTIFACTS.is_symlink():
        raise ArtifactError(
            f"{ARTIFACTS} is a link to {ARTIFACTS.resolve()}, and DVC keeps only what lies in the "
            "project: move the whole project there, or mount that folder here"
        )


def artifacts_dir(stage: str, variant: str | None = None) -> Path:
    """Return the output folder of a stage, e.g. ``artifacts/train/lacoot``."""
    return ARTIFACTS / stage / variant if variant else ARTIFACTS / stage


def metrics_path(stage: str, variant: str | None = None) -> Path:
    """Return the metrics file of a stage, e.g. ``metrics/train/lacoot.json``."""
    return METRICS / stage / f"{variant}.json" if variant else METRICS / f"{stage}.json"


# What must hold when an output appears; each raises where it does not.
CONDITIONS: list[Callable[[], None]] = []


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path`, on failure it is removed."""
    temporary = _temporary(path)
    try:
        yield temporary
        _require_conditions()
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_dir(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it becomes `path`, whole."""
    temporary = _temporary(path)
    temporary.mkdir()
    before = temporary.with_suffix(f".before{SUFFIX}")
    try:
        yield temporary
        _require_conditions()
        for written in (*temporary.rglob("*"), temporary):
            _flush(written)
        _put_in_place(temporary, path, before)
        _flush(path.parent)
    finally:
        _remove(temporary)
        _remove(before)


def _require_conditions() -> None:
    for require in CONDITIONS:
        require()


def _put_in_place(new: Path, path: Path, before: Path) -> None:
    """Rename `new` to `path`, what is there to `before`; another process may do the same."""
    while True:
        _remove(before)
        with suppress(FileNotFoundError):
            path.rename(before)
        try:
            new.rename(path)
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return


def _flush(path: Path) -> None:
    """Bring a file or a folder to the disk: else a loss of power may leave its name alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    """Return a name beside `path` of this thread's own; remove what those that died have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = str(threading.get_native_id())
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{SUFFIX}"):
        owner = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if owner == own or not (owner.isdecimal() and _runs(int(owner))):
            _remove(left)
    return path.with_name(f".{path.name}.{own}{SUFFIX}")


def _runs(thread: int) -> bool:
    try:
        os.kill(thread, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


class Document(dict[str, Any]):
    """An object of a JSON file; a key that it lacks is an error that names the file."""

    path: Path

    def __missing__(self, key: str) -> Any:
        """Raise `ArtifactError`."""
        raise ArtifactError(f"{self.path} lacks {key!r}; delete it and run `dvc repro`")


def read_json(path: Path) -> Any:
    """Read a JSON file written by a stage, which holds an object.

    Raises:
        ArtifactError: it is missing or damaged, holds something else, or, later, lacks a key.
    """

    def document(pairs: Any) -> Document:
        made = Document(pairs)
        made.path = path
        return made

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(
            text,
            object_hook=document,
            parse_int=lambda number: int(number) if _finite(number) else 0,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e
    except (ValueError, RecursionError) as e:  # of JSON, of UTF-8, of numbers
        raise ArtifactError(f"{path} is not valid JSON ({e}); delete it and run `dvc repro`") from e
    if not isinstance(content, Document):
        raise ArtifactError(f"{path} holds no JSON object; delete it and run `dvc repro`")
    return content


def _finite(text: str) -> float:
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"{text[:20]} is no finite number")


def read_yaml(path: Path) -> Any:
    """Return the contents of a YAML file."""
    import yaml

    # Seven times as fast as the loader in Python: a hundred variants have a lock of megabytes.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def require_unchanged(path: Path, sha256: str) -> Path:
    """Return `path` where its contents are those that its stage wrote.

    Raises:
        ArtifactError: it is missing or has been changed.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it")
    if known_sha256(path) != sha256 and file_sha256(path) != sha256:
        raise ArtifactError(
            f"{path} has changed since it was written and proven; delete its folder and run "
            "`dvc repro --force` on the stage that writes it"
        )
    return path


def known_sha256(path: Path) -> str:
    """Return a file's sha256, taken once for as long as its size, times and inode stay."""
    started, stat = time.time_ns(), path.stat()
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    name = str(path.resolve())
    match _known().get(name):
        case [str(sha256), *seen] if seen == state:
            return sha256
    sha256 = file_sha256(path)
    if started - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS:
        with suppress(OSError), locked(KNOWN):  # it only saves time
            kept = {other: value for other, value in _known().items() if Path(other).exists()}
            write_json(KNOWN, {**kept, name: [sha256, *state]})
    return sha256


def _known() -> dict[str, Any]:
    with suppress(ArtifactError, OSError):
        known = read_json(KNOWN)
        return known if isinstance(known, dict) else {}
    return {}


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def described(stage: str, root: Path = SOURCE) -> dict[str, Any]:
    """Return what dvc.yaml says of a stage; nothing where it has none of that name.

    Raises:
        ArtifactError: `root` has no dvc.yaml.
    """
    try:
        stages = read_yaml(root / "dvc.yaml")["stages"]
    except FileNotFoundError as e:
        raise ArtifactError(f"{e.filename} is missing; restore it from the commit") from e
    entry = stages.get(stage, {})
    return dict(entry.get("do", entry))


def code_hashes(stage: str, root: Path = SOURCE) -> dict[str, str]:
    """Return the sha256 of the Python files that dvc.yaml lists for a stage, or below its folders.

    The declarations of params.yaml's sections are left out; a key has the settings themselves.

    Raises:
        ArtifactError: `root` has no dvc.yaml, or not what it lists.
    """
    listed = [
        root / path for path in described(stage, root).get("deps", []) if path.startswith(CODE)
    ]
    files = {f for path in listed for f in (path.rglob("*.py") if path.is_dir() else [path])}
    names = {str(file.relative_to(root)): file for file in files}
    try:
        return {n: file_sha256(file) for n, file in names.items() if not n.startswith(SECTIONS)}
    except FileNotFoundError as e:
        raise ArtifactError(f"{e.filename} is missing; restore it from the commit") from e


def code_digest(stage: str, root: Path = SOURCE) -> str:
    """Return the digest of `code_hashes`."""
    return digest(code_hashes(stage, root))


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone.

    Raises:
        ArtifactError: another process holds it, such as a stage that outlived a killed DVC.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        if not taken(lock):
            raise ArtifactError(
                f"{holder(lock)} is still writing to {folder}; wait for it or stop it"
            )
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process or thread holds `path`, and hold it: ``<path>.lock``.

    A wait of more than `SILENT_S` says whom it is for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a+") as lock:
        deadline = time.monotonic() + SILENT_S
        while not taken(lock):
            if time.monotonic() > deadline:
                print(f"waiting for {holder(lock)}, which holds {lock.name}", file=sys.stderr)
                deadline = math.inf
            time.sleep(POLL_S)
        yield


def taken(lock: TextIO) -> bool:
    """Lock a file opened to append, and write into it who holds it; False where another does."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return True


def holder(lock: TextIO) -> str:
    """Return who holds a lock, e.g. ``process 12 (python -m stages.build dense, stopped)``."""
    import psutil

    lock.seek(0)
    number = lock.read()
    try:
        process = psutil.Process(int(number))
        command = " ".join([Path(process.exe()).name, *process.cmdline()[1:]])
        return f"process {number} ({shorten(command, 80)}, {process.status()})"
    except (ValueError, psutil.Error):
        return "another process"
