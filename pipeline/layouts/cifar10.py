"""CIFAR-10 (Krizhevsky 2009): the Python version, cifar-10-batches-py/, 60,000 images of 32×32.

The test batch is test; validation is drawn from the five training batches. torchvision's reader
compares MD5 sums and then unpickles plainly; here the files need not be trusted, and their form is
checked instead of their sums.
"""

from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DataError
from pipeline.layouts.layout import Layout, locate
from pipeline.layouts.pickled import Stored, unpickle
from pipeline.params import Prepare
from pipeline.sources import Labels, Material, Pixels, Source, stratified_split

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST, META = "test_batch", "batches.meta"
LAYOUT = Layout(
    "CIFAR-10",
    "the Python version, unpacked: cifar-10-batches-py/ with data_batch_1 to data_batch_5, "
    "test_batch and batches.meta",
    ((*TRAIN, TEST, META),),
)
SIDE = 32


def cifar10(params: Prepare) -> Source:
    """Return CIFAR-10, its training batches parted by `validation_fraction`.

    Raises:
        DataError: a file is missing, damaged, not of the published form, or not harmless.
    """
    root = locate(params, LAYOUT)
    classes = _class_names(root / META)
    batches = [_batch(root / name, classes) for name in TRAIN]
    images = np.concatenate([own for own, _ in batches])
    labels = np.concatenate([own for _, own in batches])
    fractions = {"validation": params.validation_fraction}
    parts = stratified_split(labels, fractions, classes, params.seed)
    splits = {part: _material(images[rows], labels[rows]) for part, rows in parts.items()}
    splits["test"] = _material(*_batch(root / TEST, classes))
    return Source(classes, splits, has_colour=lambda: True)


def _material(images: Pixels, labels: Labels) -> Material:
    return Material(labels, read=lambda rows: images[rows], chunk=1024)


def _class_names(path: Path) -> list[str]:
    names = _entry(path, unpickle(path), b"label_names", list)
    if not all(isinstance(name, bytes) for name in names) or not 1 < len(set(names)) == len(names):
        raise DataError(f"{path}: label_names = {names!r}; needs two names or more, all different")
    return [name.decode("utf-8", errors="replace") for name in names]


def _batch(path: Path, classes: list[str]) -> tuple[Pixels, Labels]:
    content = unpickle(path)
    labels = _entry(path, content, b"labels", list)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(classes):
            raise DataError(
                f"{path}: label {row} is {label!r}; needs 0 to {len(classes) - 1}, the places in "
                f"{META}'s label_names"
            )
    data, shape = _entry(path, content, b"data", Stored).uint8(), (len(labels), 3 * SIDE * SIDE)
    if data is None or data.shape != shape:
        raise DataError(
            f"{path}: data is no array of uint8 {shape}, a row for each label; unpack the "
            "published archive again"
        )
    return data.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64)


def _entry(path: Path, content: Any, key: bytes, kind: type) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise DataError(
            f"{path} holds no {key.decode()} of the right type, so it is not a file of CIFAR-10's "
            "Python version; unpack the published archive again"
        )
    return value
