"""Tiny-ImageNet-200 (Stanford CS231n): 200 classes, 100,000 + 10,000 labelled images of 64×64.

The images of test/ were published without labels. So val/ serves as test, as in most papers, and
validation is drawn from train: no choice is made on the images that are reported.
"""

from pathlib import Path

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.image_files import (
    LabelledFiles,
    file_source,
    files_by_class,
    labelled,
    split_files,
)
from pipeline.data.published.archive import Layout, checked_splits, locate, warn_unlisted
from pipeline.data.source import Source

LAYOUT = Layout(
    "Tiny-ImageNet-200",
    "tiny-imagenet-200/ with wnids.txt, words.txt, train/<wnid>/images/*.JPEG, "
    "val/val_annotations.txt and val/images/*.JPEG",
    (("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"),),
)


def tiny_imagenet(params: Prepare) -> Source:
    """Return Tiny-ImageNet-200, its train split by `validation_fraction`, its val as test."""
    root = locate(params, LAYOUT)
    wnids = sorted(_lines(root / "wnids.txt"))
    classes = _class_names(root / "words.txt", wnids)
    splits = split_files(_train(root / "train", wnids), params, ["validation"], classes)
    splits["test"] = _annotated(root / "val", wnids)
    checked_splits(root, splits, classes)
    warn_unlisted(root / "val" / "images", splits)
    return file_source(params, root, classes, splits)


def _lines(path: Path) -> list[str]:
    """Return the lines of a list that are not blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not a text file ({e}); restore the published one") from e
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    if not any(lines):
        raise DataError(f"{path} is empty; restore the published one")
    return list(filter(None, lines))


def _class_names(path: Path, wnids: list[str]) -> list[str]:
    """Return "<wnid> <first of its words>": words alone name two classes more than once."""
    words = dict(line.partition("\t")[::2] for line in _lines(path))
    for wnid in wnids:
        if wnid not in words:
            raise DataError(
                f"{path} has no line for {wnid} of wnids.txt; restore the published one"
            )
    return [f"{wnid} {words[wnid].partition(',')[0]}" for wnid in wnids]


def _train(folder: Path, wnids: list[str]) -> LabelledFiles:
    files = files_by_class(folder)
    for wnid in sorted(files.keys() ^ set(wnids)):
        here, absent = ("wnids.txt", "train/") if wnid in wnids else ("train/", "wnids.txt")
        raise DataError(f"class {wnid} is in {here} but not in {absent}; unpack {folder} again")
    return labelled(files, wnids)


def _annotated(folder: Path, wnids: list[str]) -> LabelledFiles:
    """Return the images of val_annotations.txt: file, wnid and a box in each line."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    path = folder / "val_annotations.txt"
    files = []
    for line in _lines(path):
        name, wnid, *_ = (*line.split("\t"), "")
        if wnid not in labels:
            raise DataError(
                f"{path}, {line!r}: class {wnid!r} is not in wnids.txt; needs <file>, tab, <wnid>"
            )
        files.append((folder / "images" / name, labels[wnid]))
    return files
