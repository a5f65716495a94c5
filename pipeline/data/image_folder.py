"""A folder of images: train/<class>/*, optional val/ (or validation/, valid/, dev/) and test/.

A split without its folder is a seeded, stratified part of train. Every split must hold every class.
Images may lie in sub-folders of their class and have any size, grey or colour; links are followed.
Hidden images and files without an image's suffix are not used but counted in print. All else is an
error.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.image_files import (
    SUFFIXES,
    FilesOfClass,
    file_source,
    files_by_class,
    files_in,
    is_image,
    labelled,
    require_linked,
    split_files,
    tell_hidden,
    visible,
)
from pipeline.data.source import Source

FOLDERS = {  # in capitals or not
    "train": ("train",),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test",),
}


def image_folder(params: Prepare) -> Source:
    """Return the images under `params.path`, sorted by class and then by path.

    Raises:
        DataError: no such folder, no train/, no image at all, fewer than two classes, a class that
            is empty or is not in every split, an image in no class, or a class too small to split.
    """
    assert params.path is not None, "Prepare requires a path for an image folder"
    root = Path(params.path).expanduser()
    found = {split: _scan(folder) for split, folder in _split_folders(root).items()}
    _check_same_classes(found)
    classes = sorted(found["train"])
    if len(classes) < 2:
        raise DataError(
            f"{root / 'train'} holds one class, {classes[0]!r}; needs at least two folders"
        )
    files = {split: labelled(images, classes) for split, images in found.items()}
    absent = [split for split in FOLDERS if split not in found]
    files |= split_files(files["train"], params, absent, classes)
    return file_source(params, root, classes, files)


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(f"prepare.path = {str(root)!r} is not a folder")
    require_linked(visible(root))
    inner = [path for path in visible(root) if path.is_dir()]
    folders = {}
    for split, names in FOLDERS.items():
        found = [path for path in inner if path.name.lower() in names]
        if len(found) > 1:
            both = " and ".join(f"{path.name}/" for path in found)
            raise DataError(f"{root} has both {both}; keep one of them")
        if found:
            folders[split] = found[0]
    others = [path.name for path in inner if path not in folders.values()]
    hidden = (path for path in root.iterdir() if path.name.startswith(".") and path.is_dir())
    tell_hidden(root, chain(*map(files_in, hidden)))
    if "train" not in folders:
        raise DataError(
            f"{root} has no folder train/ with one folder per class in it; "
            f"its folders: {', '.join(others) or 'none'}"
        )
    if others:
        _refuse_splits(root, others, folders)
        print(f"{root}: not used: {', '.join(f'{name}/' for name in others)}")
    return folders


def _refuse_splits(root: Path, others: list[str], folders: dict[str, Path]) -> None:
    """Raise `DataError` where a folder looks like a split that is missing, by another name."""
    known = {path.name for path in visible(folders["train"]) if path.is_dir()}
    missing = [f"{FOLDERS[split][0]}/" for split in FOLDERS if split not in folders]
    for name in others:
        if missing and known & {path.name for path in visible(root / name) if path.is_dir()}:
            raise DataError(
                f"{root / name} has classes of train/, and there is no {' and no '.join(missing)}: "
                f"rename it if it is one of them, else move it out of {root}"
            )


def _scan(folder: Path) -> FilesOfClass:
    """Return the files of every class folder, images in each of them."""
    for path in visible(folder):
        if is_image(path) and not path.is_dir():
            raise DataError(f"{path} is in no class; images belong in {folder}/<class>/")
    files = files_by_class(folder)
    others = [path for own in files.values() for path in own if not is_image(path)]
    if len(others) == sum(map(len, files.values())):
        raise DataError(
            f"no image at all in {folder}/<class>/; looked for {', '.join(sorted(SUFFIXES))}"
        )
    if others:
        print(f"{folder}: not used, no image's suffix: {_suffixes(others)}")
    for name, own in files.items():
        if not any(map(is_image, own)):
            raise DataError(
                f"class {name!r} is empty: no image in {folder / name} (files there: "
                f"{_suffixes(own)}); add images or remove the folder"
            )
    return files


def _suffixes(files: Iterable[Path]) -> str:
    counts = sorted(Counter(path.suffix for path in files).items())
    return ", ".join(f"{n} × {suffix or 'none'}" for suffix, n in counts) or "none"


def _check_same_classes(found: dict[str, FilesOfClass]) -> None:
    for split, images in found.items():
        for name in sorted(images.keys() ^ found["train"].keys()):
            here, absent = (split, "train") if name in images else ("train", split)
            alike = [o for o in found[absent] if o not in found[here] and _looks(o) == _looks(name)]
            raise DataError(
                f"class {name!r} is in {here} but not in {absent}; every split needs every class: "
                + (
                    f"{alike[0]!a} there looks alike but is not {name!a}; rename one"
                    if alike
                    else "add its images there or remove its folder"
                )
            )


def _looks(name: str) -> str:
    """Return what two names share that a reader takes for one: case, blanks and forms left out."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
