"""Image files with labels: finding them in class folders, parting them, making a source of them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipeline.decoding import decode, has_colour
from pipeline.sources import SPLITS, Material, Pixels, Rows, Source, stratified_split

SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}

ImagesOfClass = dict[str, list[Path]]
LabelledFiles = list[tuple[Path, int]]


def visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden names."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and in its sub-folders, sorted, without hidden ones."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def is_image(path: Path) -> bool:
    """Tell by the suffix."""
    return path.suffix.lower() in SUFFIXES


def images_by_class(folder: Path) -> ImagesOfClass:
    """Return the images in and below every folder of `folder`, by its name; some may have none."""
    classes = [path for path in visible(folder) if path.is_dir()]
    return {path.name: [file for file in files_below(path) if is_image(file)] for path in classes}


def labelled(images: ImagesOfClass, classes: Iterable[str]) -> LabelledFiles:
    """Return every image with its class's place in `classes`, in that order."""
    return [(path, label) for label, name in enumerate(classes) for path in images[name]]


def parted(
    files: LabelledFiles, fractions: dict[str, float], classes: list[str], seed: int
) -> dict[str, LabelledFiles]:
    """Return "train" without, and each split in `fractions` with, its share of every class.

    Raises:
        DataError: a class has too few images to leave one in every part.
    """
    labels = np.array([label for _, label in files], dtype=np.int64)
    parts = stratified_split(labels, fractions, classes, seed)
    return {split: [files[row] for row in rows] for split, rows in parts.items()}


def file_source(
    root: Path,
    classes: list[str],
    files: dict[str, LabelledFiles],
    edit: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> Source:
    """Return a source that decodes each file when it is read, and passes it through `edit`.

    Unreadable files are named relative to `root`.
    """

    def material(own: LabelledFiles) -> Material:
        def read(rows: Rows) -> Pixels:
            (row,) = rows
            return edit(decode(own[row][0], root)[None])

        return Material(np.array([label for _, label in own], dtype=np.int64), read)

    return Source(
        classes,
        {split: material(files[split]) for split in SPLITS},
        has_colour=lambda: any(has_colour(path) for split in SPLITS for path, _ in files[split]),
    )
