"""Where results are kept: MLflow's store, DVC's cache, remote and locks."""

import configparser
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pipeline.artifacts import CACHE
from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.params import Params
from pipeline.store import CONNECT_WAIT_S, TrackingError, sqlite_file, store_uri
from pipeline.store_state import store_in_words

DVC = Path(".dvc")


def store(params: Params) -> Iterator[Finding]:
    """Yield what MLflow's store says. The pipeline never fails with it: at worst a warning."""
    uri = store_uri()
    try:
        yield Finding("store", OK, store_in_words(uri, params.name))
    except TrackingError as e:
        yield Finding("store", WARNING, str(e))
        return
    if (file := sqlite_file(uri)) and file.exists() and (reason := _not_writable(file)):
        remedy = f"end what holds it, or make {file} writable"
        yield Finding("store", WARNING, f"{file} cannot be written now: {reason}", remedy)
    if _is_held(CACHE / "mlflow.lock"):
        yield Finding("store", WARNING, "another process of Shoal writes to it", "wait for it")


def _not_writable(file: Path) -> str | None:
    try:
        with closing(sqlite3.connect(file, timeout=CONNECT_WAIT_S)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as e:
        return str(e)
    return None


def dvc() -> Iterator[Finding]:
    """Yield the state of DVC's folder: what the pipeline is kept in."""
    if not DVC.is_dir():
        yield Finding("dvc", FAILS, f"{DVC} is not here", "dvc init (--no-scm without git)")
        return
    if _is_held(DVC / "tmp" / "lock"):
        yield Finding("dvc", WARNING, "a dvc command runs here", "wait, or: dvc --wait-for-lock …")
    yield from _stage_locks()
    yield _cache()
    yield _remote()


def _stage_locks() -> Iterator[Finding]:
    """Yield the processes that hold files for a stage; of those that ended DVC takes them back."""
    try:
        held = json.loads((DVC / "tmp" / "rwlock").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    owners = [entry for kinds in held.values() for entry in kinds.values()]
    flat = [one for entry in owners for one in (entry if isinstance(entry, list) else [entry])]
    pids = {int(one["pid"]) for one in flat if one}
    living = sorted(pid for pid in pids if _lives(pid))
    if living:
        processes = ", ".join(map(str, living))
        yield Finding("dvc", WARNING, f"process {processes} runs stages here", "wait for it")
    elif pids:
        yield Finding("dvc", OK, "a killed run left locks; the next one takes them back")


def _cache() -> Finding:
    cache = DVC / (_option(("cache",), "dir") or "cache")  # an absolute one stays as it is
    if not cache.exists():
        return Finding("dvc cache", OK, f"{cache} is not there yet")
    if not os.access(cache, os.W_OK):
        return Finding("dvc cache", FAILS, f"{cache} cannot be written", "make it writable")
    return Finding("dvc cache", OK, str(cache))


def _remote() -> Finding:
    name = _option(("core",), "remote")
    if name is None:
        return Finding("dvc remote", OK, "none; `dvc remote add -d` lets others pull the results")
    url = _option((f'remote "{name}"', f"'remote \"{name}\"'"), "url")
    if url is None:
        remedy = f"dvc remote add {name} URL"
        return Finding("dvc remote", WARNING, f"{name!r} has no url in {DVC / 'config'}", remedy)
    if "://" not in url and not (DVC / url).exists():
        return Finding("dvc remote", WARNING, f"{url} is not there", "mount or make it")
    return Finding("dvc remote", OK, f"{name}: {url} (not asked)")


def _option(sections: tuple[str, ...], key: str) -> str | None:
    config = configparser.ConfigParser(interpolation=None)
    config.read([DVC / "config", DVC / "config.local"], encoding="utf-8")
    for section in sections:
        if config.has_option(section, key):
            return config.get(section, key)
    return None


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
