"""What stages read and DVC does not see, by content: images, initial weights, teachers, plans.

A file is read where its name, size or times have changed since it was read last; `CACHED` knows.
What is not here, as in a clone without the images, counts as unchanged.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.core.artifacts import CACHE, METRICS, artifacts_dir, digest, read_json, write_json
from pipeline.core.params import LevelOfPlan, Params, Variant

SOURCES = METRICS / "sources"
CACHED = CACHE / "sources.json"


def record_sources(params: Params) -> None:
    """Write a file for `prepare` and one per variant, whose contents change with the sources'."""
    for file in (SOURCES / "train").glob("*.json"):
        if file.stem not in params.variants:
            file.unlink()
    path = params.prepare.path
    images = None if path is None else _contents(Path(path).expanduser())
    _write(SOURCES / "prepare.json", {"images": images} if path else {})
    for name in params.variants:
        record_of_variant(params, name)


def record_of_variant(params: Params, name: str) -> dict[str, Any]:
    """Write what one variant's training reads, as it is now, and return it."""
    settings = params.variant(name)
    found = _of_training(settings)
    teacher = settings.train.distill.teacher
    if teacher is not None:
        own = params.variants[teacher].model_dump(mode="json", exclude={"plan"})
        found["teacher"] = {
            # It is trained before, so that its settings tell now what its weights tell then.
            "settings": digest([own, record_of_variant(params, teacher)]),
            "weights": _contents(artifacts_dir("train", teacher) / "weights.safetensors"),
        }
    return _write(SOURCES / "train" / f"{name}.json", found)


def _of_training(settings: Variant) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.model.weights is not None:
        found["weights"] = _contents(Path(settings.model.weights))
    if isinstance(settings.train.strategy.remove, LevelOfPlan):
        found["plan"] = _removed(settings.train.strategy.remove)
    return found


def _removed(wanted: LevelOfPlan) -> Any:
    """Return the blocks that a plan's level removes; None where there is no such plan."""
    with suppress(ArtifactError, OSError, KeyError, TypeError):
        levels = read_json(Path(wanted.plan))["levels"]
        return {level["level"]: level["removed"] for level in levels}[wanted.level]
    return None


def _write(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write what was found, and return it; what is absent now keeps its value of before."""
    before: Any = {}
    with suppress(ArtifactError):
        before = read_json(path)
    if isinstance(before, dict):
        found = {k: before.get(k) if value is None else value for k, value in found.items()}
    if found != before or not path.exists():
        write_json(path, found)
    return found


def _contents(root: Path) -> str | None:
    """Return a digest of a file or of all files below a folder; None where there is none."""
    known = _known()
    before, found = dict(known), {}
    for place, files in _groups(root):
        stamp = digest([[file.name, *_times(file)] for file in files])
        if known.get(place, ("",))[0] != stamp:
            known[place] = stamp, digest([[file.name, file_sha256(file)] for file in files])
        found[os.path.relpath(place, root.resolve())] = known[place][1]
    if known != before:
        write_json(CACHED, known)
    return digest(found) if found else None


def _groups(root: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield a file, or the files of each folder; links are followed, but not in circles."""
    if root.is_file():
        yield str(root.resolve()), [root]
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        files = [Path(folder, name) for name in sorted(names)]
        yield real, [file for file in files if file.is_file()]


def _times(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _known() -> dict[str, tuple[str, str]]:
    """Return by file or folder a digest of names, sizes and times, and one of the contents."""
    try:
        return {place: (stamp, sha256) for place, (stamp, sha256) in read_json(CACHED).items()}
    except (ArtifactError, AttributeError, TypeError, ValueError):
        return {}
