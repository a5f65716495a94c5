"""CIFAR-10, FGVC-Aircraft, DTD and Flowers-102, found and labelled by `torchvision.datasets`.

- CIFAR-10 (Krizhevsky 2009), the Python version: validation is drawn from the training batches.
- FGVC-Aircraft (arXiv 1306.5151), release 2013b: 100 variants, the published splits.
- DTD (arXiv 1311.3618), release 1.0.1: 47 textures, the first of the ten published splits.
- Flowers-102 (Nilsback and Zisserman 2008): the published splits; classes came without names.

torchvision is imported when it is used: the other sources do without it, and without torch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.image_files import LabelledFiles, file_source
from pipeline.data.published.archive import Layout, checked_splits, locate, warn_unlisted
from pipeline.data.source import Labels, Pixels, Source, array_source

CIFAR10 = Layout(
    "CIFAR-10",
    "the Python version, unpacked: cifar-10-batches-py/ with data_batch_1 to data_batch_5, "
    "test_batch and batches.meta",
    ((*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),),
)
AIRCRAFT_LISTS = tuple(f"data/images_variant_{split}.txt" for split in ("train", "val", "test"))
AIRCRAFT = Layout(
    "FGVC-Aircraft",
    "fgvc-aircraft-2013b/ with data/images/*.jpg, data/variants.txt, " + ", ".join(AIRCRAFT_LISTS),
    (("data/images", "data/variants.txt", *AIRCRAFT_LISTS),),
)
DTD = Layout(
    "DTD",
    "dtd/ with images/<class>/*.jpg and labels/train1.txt, labels/val1.txt, labels/test1.txt",
    (("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),),
)
FLOWERS102 = Layout(
    "Flowers-102",
    "jpg/image_00001.jpg and so on, imagelabels.mat and setid.mat in one folder",
    (("jpg", "imagelabels.mat", "setid.mat"),),
)
SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}  # ours and torchvision's
BANNER = 20  # rows


def cifar10(params: Prepare) -> Source:
    """Return CIFAR-10, its training batches split by `validation_fraction`.

    A pickle may run any code: none is opened before every file has the published md5.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    root, reader = locate(params, CIFAR10), datasets.CIFAR10
    with _where_expected(root, CIFAR10, reader.base_folder) as parent:
        meta = (reader.meta["filename"], reader.meta["md5"])
        for name, md5 in (*reader.train_list, *reader.test_list, meta):
            if not check_integrity(root / name, md5):
                raise DataError(
                    f"{root / name} is damaged or not the published file: its md5 is not {md5}; "
                    "unpack the archive again"
                )
        train, test = (reader(parent, train=train) for train in (True, False))
    return array_source(params, train.classes, _arrays(train), _arrays(test))


def _arrays(dataset: Any) -> tuple[Pixels, Labels]:
    images = np.moveaxis(dataset.data, -1, 1)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
    return images, np.array(dataset.targets, dtype=np.int64)


def aircraft(params: Prepare) -> Source:
    """Return FGVC-Aircraft by variant, without the banners at the foot of its images.

    A banner names the photographer; the publishers ask to remove it before training.
    """
    listed = _listed(params, AIRCRAFT, "FGVCAircraft", "fgvc-aircraft-2013b", "data/images")
    return file_source(
        params, *listed, edit=lambda pixels: pixels[:, :, : max(1, pixels.shape[2] - BANNER)]
    )


def dtd(params: Prepare) -> Source:
    """Return DTD with the first of the published splits."""
    return file_source(params, *_listed(params, DTD, "DTD", "dtd/dtd", "images"))


def flowers102(params: Prepare) -> Source:
    """Return Flowers-102 with the published splits, the images of each by number."""
    root, names, splits = _listed(params, FLOWERS102, "Flowers102", "flowers-102", "jpg")
    classes = [f"flower {number:03}" for number in range(1, len(names) + 1)]
    return file_source(
        params, root, classes, {split: sorted(files) for split, files in splits.items()}
    )


def _listed(
    params: Prepare, layout: Layout, reader: str, place: str, images: str
) -> tuple[Path, list[str], dict[str, LabelledFiles]]:
    """Return the data set's folder, its classes, and the images of each split as listed.

    Args:
        params: names the folder.
        layout: of the folder.
        reader: the class of `torchvision.datasets`.
        place: where that class looks for the folder.
        images: where the images are in it.
    """
    from torchvision import datasets

    root = locate(params, layout)
    with _where_expected(root, layout, place) as parent:
        readers = {
            split: getattr(datasets, reader)(parent, split=name, loader=Path)
            for split, name in SPLIT_NAMES.items()
        }
        names = list(dict.fromkeys(name for own in readers.values() for name in own.classes))
        splits = {
            split: [
                (root / os.path.relpath(path, parent / place), names.index(own.classes[label]))
                for path, label in (own[row] for row in range(len(own)))
            ]
            for split, own in readers.items()
        }
    checked_splits(root, splits, names)
    warn_unlisted(root / images, splits)
    return root, names, splits


@contextmanager
def _where_expected(root: Path, layout: Layout, place: str) -> Iterator[Path]:
    """Yield a folder with a link to `root` at `place`; `DataError` where a reader fails on it."""
    with TemporaryDirectory() as parent:
        link = Path(parent, place)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(root.absolute(), target_is_directory=True)
        try:
            yield Path(parent)
        except RuntimeError as e:  # raised by torchvision where an md5 differs
            files = [name for name in layout.nearest(root) if (root / name).is_file()]
            raise DataError(
                f"{root}: {' or '.join(files)} is damaged or not the published file (its md5 "
                "differs); unpack the archive again"
            ) from e
        except (OSError, LookupError, ValueError) as e:
            raise DataError(
                f"{root} is damaged or not {layout.name} as published "
                f"({type(e).__name__}: {str(e).replace(str(link), str(root))}); unpack it again"
            ) from e
