"""A folder of images: train/<class>/*, optional val/ (or validation/) and test/.

A split without its folder is a seeded, stratified part of train. Every split must hold every class.
Images may lie in sub-folders of their class and have any size, grey or colour. Hidden files and
files without an image's suffix are not used; the latter are counted aloud. All else is an error.
"""

import errno
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import DataError
from pipeline.params import Prepare
from pipeline.sources import (
    SPLITS,
    Material,
    Pixels,
    Rows,
    Source,
    UnreadableImageError,
    stratified_split,
)

FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
GREY_MODES = ("1", "L", "LA", "La", "F")  # and those of 16 and 32 bits, I;16 and so on
# What Pillow's decoders raise on damaged files, beside an OSError of their own.
DECODING_ERRORS = (
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

ImagesOfClass = dict[str, list[Path]]


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
    files = {split: _flatten(images, classes) for split, images in found.items()}
    fractions = {"validation": params.validation_fraction, "test": params.test_fraction}
    files |= _derived(files["train"], classes, fractions, set(SPLITS) - set(found), params.seed)
    return Source(
        classes,
        {split: _material(root, files[split]) for split in SPLITS},
        has_colour=lambda: any(_has_colour(path) for s in SPLITS for path, _ in files[s]),
    )


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
    others = sorted(p.name for p in _visible(root) if p.is_dir() and p not in folders.values())
    if "train" not in folders:
        raise DataError(
            f"{root} has no folder train/ with one folder per class in it; "
            f"its folders: {', '.join(others) or 'none'}"
        )
    if others:
        print(f"{root}: not used: {', '.join(f'{name}/' for name in others)}")
    return folders


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _scan(folder: Path) -> ImagesOfClass:
    """Return the images of every class folder, sorted."""
    for path in _visible(folder):
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            raise DataError(f"{path} is in no class; images belong in {folder}/<class>/")
    files = {path.name: _files_below(path) for path in _visible(folder) if path.is_dir()}
    images = {name: [p for p in f if p.suffix.lower() in SUFFIXES] for name, f in files.items()}
    if not any(images.values()):
        raise DataError(
            f"no image at all in {folder}/<class>/; looked for {', '.join(sorted(SUFFIXES))}"
        )
    others = Counter(
        p.suffix for f in files.values() for p in f if p.suffix.lower() not in SUFFIXES
    )
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


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _check_same_classes(found: dict[str, ImagesOfClass]) -> None:
    for split, images in found.items():
        for name in sorted(images.keys() ^ found["train"].keys()):
            here, absent = (split, "train") if name in images else ("train", split)
            raise DataError(
                f"class {name!r} is in {here} but not in {absent}; every split needs every class: "
                "add its images there or remove its folder"
            )


LabelledFiles = list[tuple[Path, int]]


def _flatten(images: ImagesOfClass, classes: list[str]) -> LabelledFiles:
    return [(path, label) for label, name in enumerate(classes) for path in images[name]]


def _derived(
    train: LabelledFiles,
    classes: list[str],
    fractions: dict[str, float],
    absent: set[str],
    seed: int,
) -> dict[str, LabelledFiles]:
    """Return train without, and the absent splits with, their shares of train."""
    labels = np.array([label for _, label in train], dtype=np.int64)
    shares = {split: share for split, share in fractions.items() if split in absent}
    parts = stratified_split(labels, shares, classes, seed)
    return {split: [train[row] for row in rows] for split, rows in parts.items()}


def _material(root: Path, files: LabelledFiles) -> Material:
    def read(rows: Rows) -> Pixels:
        (row,) = rows
        return decode(files[row][0], root)[None]

    return Material(np.array([label for _, label in files], dtype=np.int64), read)


def decode(path: Path, root: Path) -> UInt8[np.ndarray, "c h w"]:
    """Return an image's pixels, upright by its EXIF orientation, grey (1) or colour (3).

    Transparent parts become black, as padding is; 16 bits become the upper 8; of an animation
    counts the first frame.

    Raises:
        UnreadableImageError: damaged, or in a form whose range is unknown; its file is named
            relative to `root`.
        DataError: the file system does not give the file's bytes.
    """
    name = path.relative_to(root).as_posix()
    try:
        with Image.open(path) as image:
            return _to_array(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as e:
        raise UnreadableImageError(name, "not an image, or damaged at its start") from e
    except OSError as e:
        # Any code but that of a damaged offset means the disk or the rights: that is never skipped.
        if e.errno not in (None, errno.EINVAL):
            raise DataError(f"cannot read {path}: {e.strerror}") from e
        raise UnreadableImageError(name, str(e)) from e
    except DECODING_ERRORS as e:
        raise UnreadableImageError(name, f"{type(e).__name__}: {e}") from e


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    if image.mode.startswith("I"):
        return _upper_8_of_16_bits(np.asarray(image))[None]
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store them with 8 or 16 bits")
    mode = "RGB" if _is_colour(image) else "L"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    pixels = np.asarray(image.convert(mode))
    return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)  # (h, w, 3) -> (3, h, w)


def _upper_8_of_16_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"values {pixels.min()} to {pixels.max()} do not fit into 16 bits")
    return (pixels >> 8).astype(np.uint8)


def _has_colour(path: Path) -> bool:
    """Tell from a file's header; a damaged file has none, and is reported when it is decoded."""
    try:
        with Image.open(path) as image:
            return _is_colour(image)
    except (OSError, *DECODING_ERRORS):
        return False


def _is_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY_MODES and not image.mode.startswith("I")
