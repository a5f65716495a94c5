"""Whether the files of a variant were made of each other, as dvc.lock recorded them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.errors import ArtifactError
from pipeline.core.artifacts import artifacts_dir

LATER = ("benchmark", "bundle", "report", "track")  # stages that make nothing of what is shipped


@dataclass(frozen=True)
class _Recorded:
    """A file or folder as a stage read or wrote it."""

    path: str
    md5: str | None = None
    hash: str | None = None  # "md5"; not of DVC 2, whose md5 of texts is another


@dataclass(frozen=True)
class _Stage:
    deps: list[_Recorded] = field(default_factory=list)
    outs: list[_Recorded] = field(default_factory=list)


Written = dict[str, tuple[str, str | None]]  # by path: the stage that wrote it, and its md5


def require_belonging(locked: Mapping[str, Any], variant: str) -> None:
    """Require that what a variant is shipped from belongs together, where DVC has recorded it.

    Every stage must have read what the stage before it wrote last, and metrics and the network
    must still be what their stages wrote. Graphs and engines have their parity checks for that.

    Args:
        locked: the stages of dvc.lock; what is not in it is not judged.
        variant: whose stages are looked at, and those of no single one.

    Raises:
        ArtifactError: something is stale or was changed by hand, or dvc.lock is damaged.
    """
    stages = _stages_of(locked, variant)
    written = {
        out.path: (name, out.md5)
        for name, stage in stages.items()
        for out in stage.outs
        if out.hash == "md5"
    }
    if problem := _stale(stages, written) or _changed(written, variant):
        raise ArtifactError(f"{problem}; run `dvc repro bundle@{variant}`")


def _stages_of(locked: Mapping[str, Any], variant: str) -> dict[str, _Stage]:
    parts = {name: name.partition("@") for name in locked}
    own = [n for n, (stage, _, of) in parts.items() if of in ("", variant) and stage not in LATER]
    try:
        return TypeAdapter(dict[str, _Stage]).validate_python({name: locked[name] for name in own})
    except ValidationError as e:
        where = ".".join(map(str, e.errors()[0]["loc"]))
        raise ArtifactError(
            f"dvc.lock is damaged ({where}: {e.errors()[0]['msg']}); restore it with "
            "`git checkout dvc.lock`"
        ) from e


def _stale(stages: Mapping[str, _Stage], written: Written) -> str | None:
    for name, stage in stages.items():
        for read in stage.deps:
            maker, md5 = written.get(read.path, (name, read.md5))
            if md5 != read.md5:
                return f"{read.path} was made anew by {maker} after {name} had read it"
    return None


def _changed(written: Written, variant: str) -> str | None:
    network = artifacts_dir("train", variant)
    for name, (stage, md5) in written.items():
        path = Path(name)
        if (path.is_file() or (path == network and path.is_dir())) and _md5(path) != md5:
            return f"{path} is not what {stage} wrote"
    return None


def _md5(path: Path) -> str:
    """Return what DVC calls the md5 of a file or of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": _md5(file), "relpath": name} for name, file in sorted(files.items())]
    return hashlib.md5(json.dumps(listed).encode()).hexdigest() + ".dir"
