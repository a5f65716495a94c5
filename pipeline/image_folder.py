"""A folder of images: train/<class>/*, optional val/ (or validation/) and test/.

A split without its folder is a seeded, stratified part of train. Every split must hold every class.
Images may lie in sub-folders of their class and have any size, grey or colour. Hidden files and
files without an image's suffix are not used; the latter are counted aloud. All else is an error.
"""

from collections import Counter
from pathlib import Path

from models.errors import DataError
from pipeline.image_files import (
    SUFFIXES,
    ImagesOfClass,
    file_source,
    files_below,
    is_image,
    labelled,
    parted,
    visible,
)
from pipeline.params import Prepare
from pipeline.sources import Source

FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}


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
    fractions = {"validation": params.validation_fraction, "test": params.test_fraction}
    absent = {split: share for split, share in fractions.items() if split not in found}
    files |= parted(files["train"], absent, classes, params.seed)
    return file_source(root, classes, files)


def _split_folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(f"prepare.path = {str(root)!r} is not a folder")
    folders = {}
    for split, names in FOLDERS.items():
        found = [root / name for name in names if (root / name).is_dir()]
        if len(found) > 1:
            raise DataError(f"{root} has both {names[0]}/ and {names[1]}/; keep one of them")
        if found:
            folders[split] = found[0]
    others = sorted(p.name for p in visible(root) if p.is_dir() and p not in folders.values())
    if "train" not in folders:
        raise DataError(
            f"{root} has no folder train/ with one folder per class in it; "
            f"its folders: {', '.join(others) or 'none'}"
        )
    if others:
        print(f"{root}: not used: {', '.join(f'{name}/' for name in others)}")
    return folders


def _scan(folder: Path) -> ImagesOfClass:
    """Return the images of every class folder, sorted."""
    for path in visible(folder):
        if is_image(path) and not path.is_dir():
            raise DataError(f"{path} is in no class; images belong in {folder}/<class>/")
    files = {path.name: files_below(path) for path in visible(folder) if path.is_dir()}
    images = {name: [p for p in f if is_image(p)] for name, f in files.items()}
    if not any(images.values()):
        raise DataError(
            f"no image at all in {folder}/<class>/; looked for {', '.join(sorted(SUFFIXES))}"
        )
    others = Counter(p.suffix for f in files.values() for p in f if not is_image(p))
    if others:
        print(f"{folder}: not used, no image's suffix: {_listed(others)}")
    for name, own in images.items():
        if not own:
            there = _listed(Counter(path.suffix for path in files[name]))
            raise DataError(
                f"class {name!r} is empty: no image in {folder / name} (files there: {there}); "
                "add images or remove the folder"
            )
    return images


def _listed(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} × {s or 'none'}" for s, n in sorted(suffixes.items())) or "none"


def _check_same_classes(found: dict[str, ImagesOfClass]) -> None:
    for split, images in found.items():
        for name in sorted(images.keys() ^ found["train"].keys()):
            here, absent = (split, "train") if name in images else ("train", split)
            raise DataError(
                f"class {name!r} is in {here} but not in {absent}; every split needs every class: "
                "add its images there or remove its folder"
            )
