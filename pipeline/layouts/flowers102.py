"""Oxford Flowers-102 (Nilsback and Zisserman 2008): 8,189 images, with its own three splits.

Image n is jpg/image_<n>.jpg, counted from 1; imagelabels.mat has its class, 1 to 102, and setid.mat
the numbers of the images of each split. The classes were published without names.
"""

import zlib
from pathlib import Path

import numpy as np

from models.errors import DataError
from pipeline.image_files import LabelledFiles, file_source, files_below
from pipeline.layouts.layout import Layout, checked_splits, locate, tell_unlisted
from pipeline.params import Prepare
from pipeline.sources import Labels, Source

LAYOUT = Layout(
    "Flowers-102",
    "jpg/image_00001.jpg and so on, imagelabels.mat and setid.mat in one folder",
    (("jpg", "imagelabels.mat", "setid.mat"),),
)
# What scipy's reader raises on damaged files, beside an error of its own.
READING_ERRORS = (
    ArithmeticError,
    LookupError,
    MemoryError,
    NotImplementedError,
    TypeError,
    ValueError,
    zlib.error,
)
SPLIT_KEYS = {"train": "trnid", "validation": "valid", "test": "tstid"}


def flowers102(params: Prepare) -> Source:
    """Return Flowers-102 with the published splits.

    Raises:
        DataError: the layout is another, a .mat file is damaged, or it names what is not there.
    """
    root = locate(params, LAYOUT)
    labels = _numbers(root / "imagelabels.mat", "labels")
    if labels.min() < 1:
        raise DataError(f"{root / 'imagelabels.mat'}: a label is {labels.min()}; they start at 1")
    classes = [f"flower {number:03}" for number in range(1, labels.max() + 1)]
    splits = {
        split: _images(root, _numbers(root / "setid.mat", key), labels)
        for split, key in SPLIT_KEYS.items()
    }
    checked_splits(splits, classes)
    tell_unlisted(root / "jpg", files_below(root / "jpg"), splits)
    return file_source(root, classes, splits)


def _images(root: Path, numbers: Labels, labels: Labels) -> LabelledFiles:
    for number in numbers:
        if not 1 <= number <= len(labels):
            raise DataError(
                f"{root / 'setid.mat'} names image {number}; imagelabels.mat has labels for 1 to "
                f"{len(labels)}: restore the published files"
            )
    return [(root / "jpg" / f"image_{n:05}.jpg", int(labels[n - 1]) - 1) for n in sorted(numbers)]


def _numbers(path: Path, key: str) -> Labels:
    """Return the whole numbers under `key` of a MATLAB file, (1, n) there, as (n,)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        value = loadmat(path, variable_names=[key]).get(key)
    except (MatReadError, OSError, *READING_ERRORS) as e:
        if isinstance(e, OSError) and e.errno is not None:  # without one, scipy's own
            raise DataError(f"cannot read {path}: {e.strerror}") from e
        raise DataError(
            f"{path} is not a whole MATLAB file ({e}); restore the published one"
        ) from e
    if value is None:
        raise DataError(f"{path} holds no {key!r}; restore the published file")
    if not np.issubdtype(value.dtype, np.integer) or value.size == 0:
        raise DataError(f"{path}: {key!r} holds {value.dtype} {value.shape}; needs whole numbers")
    numbers: Labels = value.astype(np.int64).ravel()
    return numbers
