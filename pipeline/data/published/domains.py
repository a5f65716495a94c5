"""PACS (arXiv 1710.03077) and VLCS (Fang et al. 2013): the same classes in four domains.

All domains are pooled, as in the recipe of LaCoOT's authors (80/10/10 of the pool); here validation
and test are shares of every class in every domain. A copy of VLCS that has train/, crossval/ and
test/ inside each domain keeps that split.
"""

from collections import defaultdict
from pathlib import Path

from models.errors import DataError
from models.hashing import file_sha256
from pipeline.image_files import (
    ImagesOfClass,
    LabelledFiles,
    file_source,
    images_by_class,
    labelled,
    parted,
)
from pipeline.layouts.layout import Layout, checked_splits, locate
from pipeline.params import Prepare
from pipeline.sources import Source

PACS = Layout(
    "PACS",
    "art_painting/, cartoon/, photo/ and sketch/, each with <class>/*.jpg",
    (("art_painting", "cartoon", "photo", "sketch"),),
)
VLCS = Layout(
    "VLCS",
    "Caltech101/, LabelMe/, SUN09/ and VOC2007/, each with <class>/*.jpg; or CALTECH/, LABELME/, "
    "PASCAL/ and SUN/, each with train/<class>/*.jpg, crossval/<class>/*.jpg, test/<class>/*.jpg",
    (("Caltech101", "LabelMe", "SUN09", "VOC2007"), ("CALTECH", "LABELME", "PASCAL", "SUN")),
)
FOLDS = {"train": "train", "validation": "crossval", "test": "test"}


def pacs(params: Prepare) -> Source:
    """Return PACS, parted by `validation_fraction` and `test_fraction`.

    Raises:
        DataError: the layout is another, or a class has too few images in a domain.
    """
    return _pooled(params, PACS)


def vlcs(params: Prepare) -> Source:
    """Return VLCS, with the split it comes with, or parted as PACS is.

    Raises:
        DataError: as of PACS; a class is in no domain's train, crossval or test.
    """
    return _pooled(params, VLCS)


def _pooled(params: Prepare, layout: Layout) -> Source:
    root = locate(params, layout)
    domains = [root / name for name in layout.nearest(root)]
    if any((domain / fold).is_dir() for domain in domains for fold in FOLDS.values()):
        classes, splits = _as_published(domains, layout)
    else:
        classes, splits = _drawn(domains, params)
    return file_source(root, classes, checked_splits(splits, classes))


def _drawn(domains: list[Path], params: Prepare) -> tuple[list[str], dict[str, LabelledFiles]]:
    """Part every domain by itself, so that each split has its share of each."""
    found = {domain.name: images_by_class(domain) for domain in domains}
    classes = sorted({name for images in found.values() for name in images})
    fractions = {"validation": params.validation_fraction, "test": params.test_fraction}
    pool: dict[str, LabelledFiles] = {split: [] for split in FOLDS}
    for domain, images in found.items():
        files = labelled(defaultdict(list, images), classes)
        names = [f"{domain}/{name}" for name in classes]
        for split, part in parted(files, fractions, names, params.seed).items():
            pool[split] += part
    return classes, pool


def _as_published(
    domains: list[Path], layout: Layout
) -> tuple[list[str], dict[str, LabelledFiles]]:
    """Take each domain's own split; what lies beside it, such as full/, repeats its images."""
    found: dict[str, list[ImagesOfClass]] = {split: [] for split in FOLDS}
    for domain in domains:
        for split, fold in FOLDS.items():
            if not (domain / fold).is_dir():
                raise DataError(
                    f"{domain} has no {fold}/; {layout.name} is expected as {layout.expected}"
                )
            found[split].append(images_by_class(domain / fold))
    classes = sorted({name for parts in found.values() for images in parts for name in images})
    splits = {
        split: [file for images in parts for file in labelled(defaultdict(list, images), classes)]
        for split, parts in found.items()
    }
    splits["validation"] = _without_copies(splits, "validation", ["test"])
    splits["train"] = _without_copies(splits, "train", ["validation", "test"])
    return classes, splits


def _without_copies(
    splits: dict[str, LabelledFiles], split: str, others: list[str]
) -> LabelledFiles:
    """Return a split without the images whose very bytes are in one of the others too."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for other in others:
        for path, _ in splits[other]:
            by_size[path.stat().st_size].append(path)
    hashes: dict[int, set[str]] = {}

    def is_copy(path: Path) -> bool:
        size = path.stat().st_size
        if size not in hashes:
            hashes[size] = {file_sha256(other) for other in by_size[size]}
        return bool(hashes[size]) and file_sha256(path) in hashes[size]

    kept = [(path, label) for path, label in splits[split] if not is_copy(path)]
    if copies := len(splits[split]) - len(kept):
        print(f"{split}: not used, copies of images in {' or '.join(others)}: {copies} images")
    return kept
