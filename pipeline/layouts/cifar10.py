"""CIFAR-10 (Krizhevsky 2009): the Python version, cifar-10-batches-py/, 60,000 images of 32×32.

The test batch is test; validation is drawn from the five training batches.

A batch is a pickle, and a pickle may run any code when it is read. torchvision's reader compares
MD5 sums first and then unpickles plainly; here nothing but arrays, lists and strings can come out,
whatever the file holds, and its form is checked instead of its sum.
"""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from models.errors import DataError
from pipeline.layouts.layout import Layout, locate
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
    names = _entry(path, _unpickled(path), b"label_names", list)
    if len(names) < 2 or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path}: label_names = {names!r}; needs two names or more")
    return [name.decode("utf-8", errors="replace") for name in names]


def _batch(path: Path, classes: list[str]) -> tuple[Pixels, Labels]:
    content = _unpickled(path)
    data = _entry(path, content, b"data", np.ndarray)
    labels = _entry(path, content, b"labels", list)
    if data.dtype != np.uint8 or data.shape != (len(labels), 3 * SIDE * SIDE):
        raise DataError(
            f"{path}: data is {data.dtype} {data.shape} for {len(labels)} labels; needs uint8 "
            f"({len(labels)}, {3 * SIDE * SIDE}): unpack the published archive again"
        )
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(classes):
            raise DataError(
                f"{path}: label {row} is {label!r}; needs 0 to {len(classes) - 1}, the places in "
                f"{META}'s label_names"
            )
    return data.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64)


def _entry(path: Path, content: Any, key: bytes, kind: type) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise DataError(
            f"{path} holds no {kind.__name__} {key.decode()!r}, so it is not a file of CIFAR-10's "
            "Python version; unpack the published archive again"
        )
    return value


def _dtype(name: bytes, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    """Make a dtype from what Python 2 stored: NumPy now wants text and booleans."""
    return np.dtype(name.decode(), align=bool(align), copy=bool(copy))


HARMLESS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
}
# What unpickling raises on damaged files.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    struct.error,
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return HARMLESS[module, name]


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    except UNPICKLING_ERRORS as e:
        raise DataError(
            f"{path} is damaged or not a published batch ({e}); unpack the archive again"
        ) from e
