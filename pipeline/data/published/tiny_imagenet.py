"""Tiny-ImageNet-200 (Stanford CS231n): 200 classes, 100,000 + 10,000 labelled images of 64×64.

The images of test/ were published without labels. So val/ serves as test, as in most papers, and
validation is drawn from train: no choice is made on the images that are reported.
"""

from pathlib import Path

from models.errors import DataError
from pipeline.image_files import LabelledFiles, file_source, files_below, is_image, parted, visible
from pipeline.layouts.layout import Layout, checked_splits, locate, read_lines, tell_unlisted
from pipeline.params import Prepare
from pipeline.sources import Source

LAYOUT = Layout(
    "Tiny-ImageNet-200",
    "tiny-imagenet-200/ with wnids.txt, words.txt, train/<wnid>/images/*.JPEG, "
    "val/val_annotations.txt and val/images/*.JPEG",
    (("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"),),
)


def tiny_imagenet(params: Prepare) -> Source:
    """Return Tiny-ImageNet-200, its train parted by `validation_fraction`, its val as test.

    Raises:
        DataError: the layout is another, a list names what is not there, or train has a class that
            is not in wnids.txt or the other way round.
    """
    root = locate(params, LAYOUT)
    wnids = sorted(wnid for _, wnid in read_lines(root / "wnids.txt"))
    classes = _class_names(root / "words.txt", wnids)
    fractions = {"validation": params.validation_fraction}
    splits = parted(_train(root / "train", wnids), fractions, classes, params.seed)
    splits["test"] = _annotated(root / "val", wnids)
    checked_splits(splits, classes)
    tell_unlisted(root / "val", files_below(root / "val" / "images"), {"test": splits["test"]})
    return file_source(root, classes, splits)


def _class_names(path: Path, wnids: list[str]) -> list[str]:
    """Return "<wnid> <first of its words>": words alone name two classes more than once."""
    words = dict(line.partition("\t")[::2] for _, line in read_lines(path))
    for wnid in wnids:
        if wnid not in words:
            raise DataError(
                f"{path} has no line for {wnid} of wnids.txt; restore the published one"
            )
    return [f"{wnid} {words[wnid].partition(',')[0]}" for wnid in wnids]


def _train(folder: Path, wnids: list[str]) -> LabelledFiles:
    there = {path.name for path in visible(folder) if path.is_dir()}
    for wnid in sorted(there ^ set(wnids)):
        here, absent = ("wnids.txt", "train/") if wnid in wnids else ("train/", "wnids.txt")
        raise DataError(f"class {wnid} is in {here} but not in {absent}; unpack {folder} again")
    return [
        (path, label)
        for label, wnid in enumerate(wnids)
        for path in files_below(folder / wnid / "images")
        if is_image(path)
    ]


def _annotated(folder: Path, wnids: list[str]) -> LabelledFiles:
    """Return the images of val_annotations.txt: file, wnid and a box in each line."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    files = []
    for place, line in read_lines(folder / "val_annotations.txt"):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in labels:
            raise DataError(
                f"{place}: class {wnid!r} is not in wnids.txt; needs <file>, tab, <wnid>"
            )
        files.append((folder / "images" / name, labels[wnid]))
    return files
