"""PACS (arXiv 1710.03077) and VLCS (Fang et al. 2013): the same classes in four domains.

All domains are pooled, as in the recipe of LaCoOT's authors (80/10/10 of the pool); here validation
and test are shares of every class in every domain. A copy of VLCS that has train/, crossval/ and
test/ inside each domain keeps that split.
"""

from pathlib import Path

from models.errors import DataError
from models.hashing import file_sha256
from pipeline.core.params import Prepare
from pipeline.data.image_files import (
    FilesOfClass,
    LabelledFiles,
    file_source,
    files_by_class,
    labelled,
    split_files,
)
from pipeline.data.published.archive import Layout, checked_splits, locate
from pipeline.data.source import Source

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
    """Return PACS, split by `validation_fraction` and `test_fraction`."""
    return _pooled(params, PACS)


def vlcs(params: Prepare) -> Source:
    """Return VLCS, with the split it comes with, or split as PACS is."""
    return _pooled(params, VLCS)


def _pooled(params: Prepare, layout: Layout) -> Source:
    root = locate(params, layout)
    domains = [root / name for name in layout.nearest(root)]
    if any((domain / fold).is_dir() for domain in domains for fold in FOLDS.values()):
        classes, splits = _as_published(domains, layout)
    else:
        classes, splits = _drawn(domains, params)
    return file_source(params, root, classes, checked_splits(root, splits, classes))


def _drawn(domains: list[Path], params: Prepare) -> tuple[list[str], dict[str, LabelledFiles]]:
    """Split every domain by itself, so that each split has its share of each."""
    found = {domain.name: files_by_class(domain) for domain in domains}
    classes = sorted(set().union(*found.values()))
    pool: dict[str, LabelledFiles] = {split: [] for split in FOLDS}
    for domain, files in found.items():
        names = [f"{domain}/{name}" for name in classes]
        parts = split_files(labelled(files, classes), params, ["validation", "test"], names)
        for split, part in parts.items():
            pool[split] += part
    return classes, pool


def _as_published(
    domains: list[Path], layout: Layout
) -> tuple[list[str], dict[str, LabelledFiles]]:
    """Take each domain's own split; what lies beside it, such as full/, repeats its images."""
    found: dict[str, list[FilesOfClass]] = {split: [] for split in FOLDS}
    for domain in domains:
        for split, fold in FOLDS.items():
            if not (domain / fold).is_dir():
                raise DataError(
                    f"{domain} has no {fold}/; {layout.name} is expected as {layout.expected}"
                )
            found[split].append(files_by_class(domain / fold))
    classes = sorted({name for parts in found.values() for files in parts for name in files})
    splits = {
        split: [file for files in parts for file in labelled(files, classes)]
        for split, parts in found.items()
    }
    _drop_copies(splits, "validation", ["test"])
    _drop_copies(splits, "train", ["validation", "test"])
    return classes, splits


def _drop_copies(splits: dict[str, LabelledFiles], split: str, others: list[str]) -> None:
    """Remove the images of a split whose very bytes are in one of the others too."""
    hashes = {file_sha256(path) for other in others for path, _ in splits[other]}
    kept = [(path, label) for path, label in splits[split] if file_sha256(path) not in hashes]
    if copies := len(splits[split]) - len(kept):
        print(f"{split}: not used, copies of images in {' or '.join(others)}: {copies} images")
    splits[split] = kept
