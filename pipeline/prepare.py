"""Turn a source of images into arrays of one size, ready to train on, and a manifest of them.

Per split `<split>_images.npy` (uint8, (n, c, h, w)) and `<split>_labels.npy` (int64, (n,)), in the
order of the source; `manifest.json` with classes, counts, statistics, skipped files and hashes.
Everything is streamed: a data set need not fit into memory. The same parameters and files give the
same bytes.
"""

import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from models.errors import DataError
from models.hashing import file_sha256
from pipeline.artifacts import write_json
from pipeline.fashion_mnist import fashion_mnist
from pipeline.image_folder import image_folder
from pipeline.layouts.aircraft import aircraft
from pipeline.layouts.cifar10 import cifar10
from pipeline.layouts.domains import pacs, vlcs
from pipeline.layouts.dtd import dtd
from pipeline.layouts.flowers102 import flowers102
from pipeline.layouts.tiny_imagenet import tiny_imagenet
from pipeline.params import Prepare
from pipeline.progress import progress
from pipeline.sources import SPLITS, Labels, Material, Pixels, Rows, Source, UnreadableImageError

Fit = Callable[[Pixels, int], Pixels]
Skipped = dict[str, str]  # file and reason
T = TypeVar("T")
U = TypeVar("U")

SOURCES: dict[str, Callable[[Prepare], Source]] = {
    "fashion_mnist": fashion_mnist,
    "image_folder": image_folder,
    "cifar10": cifar10,
    "tiny_imagenet": tiny_imagenet,
    "pacs": pacs,
    "vlcs": vlcs,
    "flowers102": flowers102,
    "dtd": dtd,
    "aircraft": aircraft,
}
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # controls, halves of characters, line and paragraph breaks
STATISTICS_CHUNK = 1024  # images read at once


def prepare(params: Prepare, target: Path) -> dict[str, Any]:
    """Write the three splits and manifest.json into the folder `target`; return the manifest.

    Raises:
        DataError: the source's own errors; a class whose name cannot be a label; an unreadable
            image where `on_corrupt` is "fail"; a class with no image left in a split; images that
            are all one flat colour.
    """
    source = SOURCES[params.source](params)
    _require_names(source.classes)
    if params.limit is not None and params.limit < len(source.classes):
        raise DataError(
            f"prepare.limit = {params.limit} is less than the {len(source.classes)} classes; "
            "every class needs an image"
        )
    channels = params.channels or (3 if source.has_colour() else 1)
    counts, skipped = {}, []
    for split in SPLITS:
        material = _limited(source.splits[split], params.limit, params.seed)
        labels, failed = _write_split(material, target, split, channels, params)
        counts[split] = _counts(labels, source.classes, split, failed)
        skipped += failed
        print(f"{split}: {len(labels)} images, {len(failed)} skipped", flush=True)
    mean, std = _channel_statistics(target / "train_images.npy")
    manifest = {
        "source": params.source,
        "classes": source.classes,
        "image_size": params.image_size,
        "channels": channels,
        "mean": mean,
        "std": std,
        "counts": counts,
        "skipped": skipped,
        "sha256": {path.name: file_sha256(path) for path in sorted(target.glob("*.npy"))},
    }
    write_json(target / "manifest.json", manifest)
    return manifest


def _require_names(classes: Iterable[str]) -> None:
    """Raise `DataError` where a class has a name that is no text of one line: it is a label."""
    for name in classes:
        if not name.strip() or any(unicodedata.category(c) in NO_TEXT for c in name):
            raise DataError(
                f"class {name!r} is empty or has characters in its name that are no text (line "
                "breaks, control characters, bytes that are not UTF-8); rename its folder"
            )


def _limited(material: Material, limit: int | None, seed: int) -> Material:
    """Keep at most `limit` images drawn at random, in turn from each class that has some left."""
    if limit is None or limit >= len(material.labels):
        return material
    shuffled = np.random.default_rng(seed).permutation(len(material.labels))
    by_class = shuffled[np.argsort(material.labels[shuffled], kind="stable")]
    labels = material.labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(labels, labels)  # 0 for each class's first
    chosen = np.sort(by_class[np.argsort(turn, kind="stable")][:limit])
    return Material(
        material.labels[chosen], lambda rows: material.read(chosen[rows]), material.chunk
    )


def _write_split(
    material: Material, target: Path, split: str, channels: int, params: Prepare
) -> tuple[Labels, list[Skipped]]:
    """Write one split's images and labels; return the labels and the files left out."""
    fit, size = FITS[params.fit], params.image_size

    def load(rows: Rows) -> tuple[Rows, Pixels | UnreadableImageError]:
        try:
            return rows, fit(_with_channels(material.read(rows), channels), size)
        except UnreadableImageError as e:
            return rows, e

    n = len(material.labels)
    chunks = (np.arange(i, min(i + material.chunk, n)) for i in range(0, n, material.chunk))
    kept: list[Rows] = []
    skipped: list[Skipped] = []
    with (target / f"{split}_images.npy").open("wb") as file:
        _write_header(file, (n, channels, size, size))
        total = -(-n // material.chunk)
        for rows, pixels in progress(_in_threads(load, chunks), split, total=total):
            if not isinstance(pixels, UnreadableImageError):
                file.write(pixels.tobytes())
                kept.append(rows)
            elif params.on_corrupt == "skip":
                skipped.append({"file": pixels.file, "reason": pixels.reason})
            else:
                raise pixels
        labels = material.labels[np.concatenate([np.arange(0), *kept])]
        file.seek(0)
        _write_header(file, (len(labels), channels, size, size))
    np.save(target / f"{split}_labels.npy", labels)
    return labels, skipped


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file; NumPy makes it the same length whatever the first size.

    Appending to a plain file, and not to a memory map, makes a full disk an error, not a crash.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _in_threads(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Map in order, several at once; unlike `Executor.map`, never far ahead of the consumer."""
    workers = os.cpu_count() or 1
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _counts(
    labels: Labels, classes: list[str], split: str, skipped: list[Skipped]
) -> dict[str, int]:
    numbers = np.bincount(labels, minlength=len(classes)).tolist()
    counts = dict(zip(classes, numbers, strict=True))
    for name, count in counts.items():
        if count == 0:
            raise DataError(
                f"class {name!r} has no image left in {split}: all of its images were skipped as "
                f"unreadable ({len(skipped)} skipped in {split}, the first {skipped[0]['file']}); "
                "replace them"
            )
    return counts


def _channel_statistics(images: Path) -> tuple[list[float], list[float]]:
    """Return mean and (population) standard deviation per channel, of pixels scaled to 0..1.

    They come from exact counts of the 256 values, so that chunks and rounding do not matter.
    """
    pixels = np.load(images, mmap_mode="r")
    counts = np.zeros((pixels.shape[1], 256), dtype=np.int64)
    for start in range(0, len(pixels), STATISTICS_CHUNK):
        for channel, values in enumerate(
            np.moveaxis(pixels[start : start + STATISTICS_CHUNK], 1, 0)
        ):
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    if not std.all():
        raise DataError(
            f"channel {int(np.argmin(std))} has the same value in all pixels of all train images; "
            "there is nothing to learn from: check the images, or prepare.channels"
        )
    return mean.tolist(), std.tolist()


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Make grey images colour, or colour ones grey by the luma of ITU-R 601."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=1)
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), 1, 0)
    luma: np.ndarray = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma[:, None].astype(np.uint8)


def _pad(pixels: Pixels, size: int) -> Pixels:
    """Shrink to fit into the square where larger, aspect kept; fill up with black around."""
    height, width = pixels.shape[2:]
    scale = min(1, size / max(height, width))
    pixels = _resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    height, width = pixels.shape[2:]
    padded = np.zeros((*pixels.shape[:2], size, size), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    padded[:, :, top : top + height, left : left + width] = pixels
    return padded


def _crop(pixels: Pixels, size: int) -> Pixels:
    """Cut out the central square and scale it: the shorter side becomes `size`."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(pixels[:, :, top : top + side, left : left + side], size, size)


FITS: dict[str, Fit] = {"pad": _pad, "crop": _crop}


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale every image by a bicubic filter, which Pillow widens when shrinking (no aliasing)."""
    if pixels.shape[2:] == (height, width):
        return pixels
    return np.stack([_resize_one(image, height, width) for image in pixels])


def _resize_one(image: np.ndarray, height: int, width: int) -> np.ndarray:
    grey = len(image) == 1
    pillow = Image.fromarray(image[0] if grey else np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    scaled = np.asarray(pillow.resize((width, height), Image.Resampling.BICUBIC))
    return scaled[None] if grey else np.moveaxis(scaled, -1, 0)
