"""What killed runs and variants that are gone have left behind."""

import os
import shlex
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from pipeline.artifacts import ARTIFACTS, CACHE, METRICS, REPORTS
from pipeline.checks.finding import OK, WARNING, Finding
from pipeline.params import Params

OLD_S = 3600.0  # what is younger may be in use
PATTERNS = (".*.tmp", ".fetch-*")


def leftovers(params: Params) -> Iterator[Finding]:
    """Yield temporary files of writes that were killed, and variants that params.yaml lacks."""
    old = [path for path in temporary_files() if _age_s(path) > OLD_S]
    if old:
        told = f"{len(old)} temporary files of writes that were killed"
        yield Finding("leftovers", WARNING, told, _remove(old))
    gone = forgotten(params)
    if gone:
        told = f"{', '.join(gone)}: no variant of params.yaml, but in {ARTIFACTS} or {METRICS}"
        folders = [path for name in gone for path in _of_variant(name)]
        yield Finding("leftovers", WARNING, told, _remove(folders))
    if not old and not gone:
        yield Finding("leftovers", OK, "none")


def temporary_files() -> Iterator[Path]:
    """Yield the temporary names of outputs, which a finished write renames."""
    for folder in (ARTIFACTS, METRICS, REPORTS, CACHE):
        for where, folders, files in os.walk(folder):  # passes over folders that vanish meanwhile
            for name in (*folders, *files):
                if any(fnmatch(name, pattern) for pattern in PATTERNS):
                    yield Path(where, name)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # the write has ended since
        return 0.0


def forgotten(params: Params) -> list[str]:
    """Return the names of variants that have outputs and are not in params.yaml."""
    trained = [path.name for path in (ARTIFACTS / "train").glob("*") if path.is_dir()]
    measured = [path.stem for path in (METRICS / "train").glob("*.json")]
    names = {name for name in (*trained, *measured) if not name.startswith(".")}
    return sorted(names - set(params.variants))


def _of_variant(name: str) -> list[Path]:
    outputs = [*ARTIFACTS.glob(f"*/{name}"), *METRICS.glob(f"*/{name}.json")]
    return sorted(outputs)


def _remove(paths: list[Path]) -> str:
    shown = " ".join(shlex.quote(str(path)) for path in paths[:3])
    return f"rm -r {shown}" + (" …" if len(paths) > 3 else "")
