"""Describable Textures (arXiv 1311.3618), release 1.0.1: 5,640 images of 47 textures.

Of its ten published splits the first is used, as is usual where one is.
"""

from pathlib import Path

from models.errors import DataError
from pipeline.image_files import LabelledFiles, file_source, files_below, is_image
from pipeline.layouts.layout import Layout, checked_splits, locate, read_lines, tell_unlisted
from pipeline.params import Prepare
from pipeline.sources import Source

LISTS = {"train": "train1.txt", "validation": "val1.txt", "test": "test1.txt"}
LAYOUT = Layout(
    "DTD",
    "dtd/ with images/<class>/*.jpg and labels/train1.txt, labels/val1.txt, labels/test1.txt",
    (("images", *(f"labels/{name}" for name in LISTS.values())),),
)


def dtd(params: Prepare) -> Source:
    """Return DTD with the first of the published splits.

    Raises:
        DataError: the layout is another, or a list names what is not there.
    """
    root = locate(params, LAYOUT)
    listed = {split: _listed(root / "labels" / name) for split, name in LISTS.items()}
    classes = sorted({name.partition("/")[0] for names in listed.values() for name in names})
    splits = {split: _labelled(root, names, classes) for split, names in listed.items()}
    checked_splits(splits, classes)
    images = [path for path in files_below(root / "images") if is_image(path)]
    tell_unlisted(root / "images", images, splits)
    return file_source(root, classes, splits)


def _listed(path: Path) -> list[str]:
    """Return the lines of a list, each <class>/<file>."""
    lines = read_lines(path)
    for place, line in lines:
        if line.count("/") != 1:
            raise DataError(f"{place}: {line!r}; needs <class>/<file>: restore the published list")
    return [line for _, line in lines]


def _labelled(root: Path, names: list[str], classes: list[str]) -> LabelledFiles:
    labels = {name: label for label, name in enumerate(classes)}
    return [(root / "images" / name, labels[name.partition("/")[0]]) for name in names]
