"""Are the images there?"""

from collections.abc import Iterator
from pathlib import Path

from models.errors import ArtifactError
from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding
from pipeline.core.artifacts import artifacts_dir, read_json
from pipeline.core.params import Params, Prepare
from pipeline.data.published.fashion_mnist import DOWNLOADS


def data(params: Params) -> Iterator[Finding]:
    """Yield a finding on the source of the images, and one on what `prepare` made of it."""
    prepared = _prepared(params.prepare)
    yield _source(params.prepare, needed=prepared.state != OK)
    yield prepared


def _source(prepare: Prepare, *, needed: bool) -> Finding:
    if prepare.path is None:
        if any(DOWNLOADS.glob("*.gz")):
            return Finding("source", OK, f"{prepare.source}, in {DOWNLOADS}")
        return Finding(
            "source",
            WARNING if needed else OK,
            f"{prepare.source} is not fetched yet; whether it can be was not tried",
            "make data; without a network, name a folder in prepare.path",
        )
    folder = Path(prepare.path).expanduser()
    if folder.is_dir():
        return Finding("source", OK, f"{prepare.source}, in {folder}")
    return Finding(
        "source",
        FAILS if needed else WARNING,
        f"prepare.path {prepare.path} is no folder here",
        "correct prepare.path in params.yaml",
    )


def _prepared(prepare: Prepare) -> Finding:
    folder = artifacts_dir("prepare")
    try:
        manifest = read_json(folder / "manifest.json")
        counts = {split: sum(own.values()) for split, own in manifest["counts"].items()}
        absent = [name for name in manifest["sha256"] if not (folder / name).exists()]
        made_of = (manifest["source"], manifest["image_size"])
    except (ArtifactError, AttributeError, KeyError, TypeError):
        return Finding("prepared", WARNING, f"nothing in {folder}", "make data")
    if absent:
        return Finding("prepared", WARNING, f"{folder} lacks {', '.join(absent)}", "make data")
    if made_of != (prepare.source, prepare.image_size):
        found = f"{folder} is of {made_of[0]} at {made_of[1]} pixels, params.yaml differs"
        return Finding("prepared", WARNING, found, "make data")
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    return Finding("prepared", OK, f"{images} images of {len(manifest['classes'])} classes")
