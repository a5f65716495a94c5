"""A stage runs on the settings and the code that it began with, or fails.

DVC writes into dvc.lock what params.yaml and the code are when a stage has ended. Where either was
edited meanwhile, the result would pass for one of the new values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from models.errors import ArtifactError, ParamsError
from pipeline.core.artifacts import CONDITIONS, SOURCE, code_hashes, described, read_yaml
from pipeline.core.params import PARAMS

SHOWN = 3  # of what has changed


@contextmanager
def unchanged_inputs(stage: str, variant: str | None, root: Path = SOURCE) -> Iterator[None]:
    """Fail, and let no output appear, where what dvc.yaml lists of a stage changes inside.

    Its code is compared by content, its part of params.yaml by value: comments, other sections and
    other variants may be edited.

    Raises:
        ParamsError: its part of params.yaml has changed.
        ArtifactError: its code has.
    """
    address = f"{stage}@{variant}" if variant else stage
    listed = described(stage, root).get("params", [])
    keys = [key.replace("${key}", variant or "") for key in listed]
    settings, code = _settings(keys), code_hashes(stage, root)
    files = [PARAMS, *(root / name for name in code)]
    stamps = _stamps(files)

    def require() -> None:
        nonlocal stamps
        now = _stamps(files)
        if now == stamps:
            return
        if changed := _different(settings, _settings(keys)):
            raise ParamsError(_message(f"{PARAMS}: {changed}", address))
        if changed := _different(code, code_hashes(stage, root)):
            raise ArtifactError(_message(changed, address))
        stamps = now

    CONDITIONS.append(require)
    try:
        yield
    finally:
        CONDITIONS.remove(require)
    require()


def _message(changed: str, address: str) -> str:
    return (
        f"{changed} was edited while {address} ran, which began with what was there before; its "
        "result is not kept: run `dvc repro` again, or undo the edit first"
    )


def _settings(keys: list[str]) -> dict[str, Any]:
    """Return the values of params.yaml under `keys`, each by its path; no file has none."""
    try:
        document = read_yaml(PARAMS)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        document = None  # `load_params` has a message for it
    found: dict[str, Any] = {}
    for key in keys:
        value = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found |= _leaves(key, value)
    return found


def _leaves(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {k: v for key, own in value.items() for k, v in _leaves(f"{path}.{key}", own).items()}


def _different(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the keys whose values differ, in words."""
    absent = object()  # `repr` tells 1 from 1.0 and from true
    changed = [k for k in before | now if repr(before.get(k, absent)) != repr(now.get(k, absent))]
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return ", ".join(changed[:SHOWN]) + more


def _stamps(files: Iterable[Path]) -> list[tuple[int, ...]]:
    """Return for each file what changes when it is written, which is cheaper to have than it."""
    stamps: list[tuple[int, ...]] = []
    for path in files:
        try:
            found = path.stat()
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append(())
    return stamps
