"""Image files with labels: found in class folders, split, and made a source."""

import os
import unicodedata
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.decoding import decode, examples, has_colour
from pipeline.data.reading import Reading
from pipeline.data.source import (
    SPLITS,
    Finish,
    LazySplit,
    Pixels,
    Rows,
    Source,
    as_read,
    fractions,
    stratified_split,
)

SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}

FilesOfClass = dict[str, list[Path]]
LabelledFiles = list[tuple[Path, int]]


def visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden names."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and in its sub-folders, sorted, without hidden ones.

    Links are followed, but not into a folder that was walked before or that the link lies in.
    """
    return [path for path in files_in(folder) if not _is_hidden(path, folder)]


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder and in its sub-folders, sorted, hidden ones as well."""
    found, reals = [], {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        inner = sorted((Path(parent, name) for name in folders), key=lambda p: (p.is_symlink(), p))
        folders[:] = [path.name for path in inner if _is_new(path, reals)]
        found += [Path(parent, name) for name in names]
    require_linked(path for path in found if not is_image(path))  # the others are opened
    return sorted(found)


def require_linked(paths: Iterable[Path]) -> None:
    """Raise `DataError` where one of them is a link to what is not there, such as a folder."""
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path} is a link to nothing; restore {path.readlink()}, or remove the link"
            )


def _refuse(error: OSError) -> None:
    if Path(error.filename).name.startswith("."):
        return  # not used anyway, such as what a volume keeps for its system
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_new(folder: Path, reals: set[str]) -> bool:
    """Return whether a folder is to be walked, and count it as walked."""
    real = os.path.realpath(folder)
    if real in reals or _leads_back(folder):
        print(f"{folder}: not followed, its images are found on another way")
        return False
    reals.add(real)
    return True


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    return Path(os.path.realpath(folder.parent)).is_relative_to(os.path.realpath(folder))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def files_by_class(folder: Path) -> FilesOfClass:
    """Return the files in and below every folder of `folder`, by its name; some may have none.

    Names are in Unicode's composed form (NFC), whatever the file system keeps; hidden images are
    counted in print.

    Raises:
        DataError: a folder cannot be read, or two have one name in two forms.
    """
    inner = list(folder.iterdir())
    require_linked(inner)
    own = {path: files_in(path) for path in inner if path.is_dir() and _is_new(path, set())}
    tell_hidden(folder, [*inner, *chain(*own.values())])
    found: dict[str, Path] = {}
    for path in sorted(path for path in own if not _is_hidden(path, folder)):
        other = found.setdefault(unicodedata.normalize("NFC", path.name), path)
        if other != path:
            raise DataError(
                f"{folder} has {other.name!a} and {path.name!a}, one name in two Unicode "
                "forms; put the images of one into the other"
            )
    return {
        name: [file for file in own[path] if not _is_hidden(file, folder)]
        for name, path in found.items()
    }


def tell_hidden(folder: Path, paths: Iterable[Path]) -> None:
    """Print how many of the images below a folder have a hidden name or are in a hidden folder."""
    hidden = [path for path in paths if is_image(path) and _is_hidden(path, folder)]
    if images := sorted(str(path.relative_to(folder)) for path in hidden):
        print(f"{folder}: not used, hidden: {len(images)} images ({examples(images)})")


def is_image(path: Path) -> bool:
    """Return whether the suffix is an image's."""
    return path.suffix.lower() in SUFFIXES


def labelled(files: FilesOfClass, classes: Iterable[str]) -> LabelledFiles:
    """Return every image with its class's place in `classes`, in that order."""
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in files.get(name, [])
        if is_image(path)
    ]


def split_files(
    files: LabelledFiles, params: Prepare, splits: Iterable[str], classes: list[str]
) -> dict[str, LabelledFiles]:
    """Return "train" without, and each of `splits` with, its share of every class.

    Raises:
        DataError: a class has too few images to leave one in every part.
    """
    labels = np.array([label for _, label in files], dtype=np.int64)
    parts = stratified_split(labels, fractions(params, *splits), classes, params.seed)
    return {split: [files[row] for row in rows] for split, rows in parts.items()}


def file_source(
    params: Prepare,
    root: Path,
    classes: list[str],
    files: dict[str, LabelledFiles],
    edit: Finish = as_read,
) -> Source:
    """Return a source that decodes each file when it is read, and passes it through `edit`.

    Unreadable files are named relative to `root`.
    """
    reading = Reading(params.transparent, params.bits, params.max_megapixels)

    def lazy(own: LabelledFiles) -> LazySplit:
        def read(rows: Rows, finish: Finish = as_read) -> Pixels:
            (row,) = rows
            return decode(own[row][0], root, reading, lambda pixels: finish(edit(pixels[None])))

        def name(row: int) -> str:
            return own[row][0].relative_to(root).as_posix()

        return LazySplit(np.array([label for _, label in own], dtype=np.int64), read, name)

    return Source(
        classes,
        {split: lazy(files[split]) for split in SPLITS},
        has_colour=lambda: any(has_colour(path) for split in SPLITS for path, _ in files[split]),
        reading=reading,
    )
