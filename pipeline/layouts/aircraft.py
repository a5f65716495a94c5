"""FGVC-Aircraft (arXiv 1306.5151), release 2013b: 10,000 images of 100 variants, three splits.

The lowest 20 rows of each image are a banner with its photographer, which its publishers ask to
remove before training and evaluation.
"""

from pathlib import Path

from models.errors import DataError
from pipeline.image_files import LabelledFiles, file_source, files_below
from pipeline.layouts.layout import Layout, checked_splits, locate, read_lines, tell_unlisted
from pipeline.params import Prepare
from pipeline.sources import Pixels, Source

LISTS = {
    "train": "data/images_variant_train.txt",
    "validation": "data/images_variant_val.txt",
    "test": "data/images_variant_test.txt",
}
VARIANTS, IMAGES = "data/variants.txt", "data/images"
LAYOUT = Layout(
    "FGVC-Aircraft",
    f"fgvc-aircraft-2013b/ with {IMAGES}/*.jpg, {VARIANTS}, {', '.join(LISTS.values())}",
    ((IMAGES, VARIANTS, *LISTS.values()),),
)
BANNER = 20  # rows


def aircraft(params: Prepare) -> Source:
    """Return FGVC-Aircraft by variant, with the published splits, without the banners.

    Raises:
        DataError: the layout is another, or a list names what is not there.
    """
    root = locate(params, LAYOUT)
    classes = [line for _, line in read_lines(root / VARIANTS)]
    splits = {split: _listed(root, root / path, classes) for split, path in LISTS.items()}
    checked_splits(splits, classes)
    tell_unlisted(root / IMAGES, files_below(root / IMAGES), splits)
    return file_source(root, classes, splits, edit=_without_banner)


def _listed(root: Path, path: Path, classes: list[str]) -> LabelledFiles:
    """Return the images of a list: "<number> <variant>" in each line, variants may have spaces."""
    labels = {name: label for label, name in enumerate(classes)}
    files = []
    for place, line in read_lines(path):
        number, _, variant = line.partition(" ")
        if variant not in labels:
            raise DataError(
                f"{place}: variant {variant!r} is not in {VARIANTS}; restore the published lists"
            )
        files.append((root / IMAGES / f"{number}.jpg", labels[variant]))
    return files


def _without_banner(pixels: Pixels) -> Pixels:
    height = max(1, pixels.shape[2] - BANNER)
    return pixels[:, :, :height]
