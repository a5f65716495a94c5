"""Turn a source of images into arrays of one size, ready to train on, and a manifest of them.

Per split `<split>_images.npy` (uint8, (n, c, h, w)) and `<split>_labels.npy` (int64, (n,)), in the
order of the source; `manifest.json` with classes, counts, statistics, skipped files and hashes.
Everything is streamed: a data set need not fit into memory. The same parameters and files give the
same bytes.
"""

import math
import os
import sys
import unicodedata
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from models.errors import DataError
from models.hashing import file_sha256
from pipeline.core.artifacts import write_json
from pipeline.core.params import Prepare
from pipeline.core.progress import progress
from pipeline.data.findings import Copies, flat_images, require_used_bits
from pipeline.data.geometry import FITS, with_channels
from pipeline.data.image_folder import image_folder
from pipeline.data.published.domains import pacs, vlcs
from pipeline.data.published.fashion_mnist import fashion_mnist
from pipeline.data.published.tiny_imagenet import tiny_imagenet
from pipeline.data.published.torchvision_sets import aircraft, cifar10, dtd, flowers102
from pipeline.data.reading import Reading
from pipeline.data.source import (
    SPLITS,
    Finish,
    Labels,
    LazySplit,
    Pixels,
    Rows,
    Source,
    UnreadableImageError,
    as_read,
)

Skipped = dict[str, str]  # file and reason
T = TypeVar("T")
U = TypeVar("U")

# Each raises `DataError` where the images are not laid out as published, or lists do not agree.
SOURCES: dict[str, Callable[[Prepare], Source]] = {
    source.__name__: source
    for source in (
        *(fashion_mnist, image_folder, cifar10, tiny_imagenet),
        *(pacs, vlcs, flowers102, dtd, aircraft),
    )
}
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # controls, halves of characters, line and paragraph breaks
CHUNK_BYTES = 2**24  # of prepared images: handled at once
BUFFER_BYTES = 2**28  # of chunks: under way at once


def prepare(params: Prepare, target: Path) -> dict[str, Any]:
    """Write the three splits and manifest.json into the folder `target`; return the manifest.

    Raises:
        DataError: the source's own errors; a class whose name cannot be a label; an unreadable
            image where `on_corrupt` is "fail"; a class with no image left in a split; an image in
            two splits or classes where `on_leak` is "fail"; files of 16 bits that use fewer; images
            that are all one flat colour.
    """
    source = SOURCES[params.source](params)
    for name in source.classes:  # they are labels in files and charts
        if not name.strip() or any(unicodedata.category(c) in NO_TEXT for c in name):
            raise DataError(
                f"class {name!r} is empty or has characters in its name that are no text (line "
                "breaks, control characters, bytes that are not UTF-8); rename its folder"
            )
    if params.limit is not None and params.limit < len(source.classes):
        raise DataError(
            f"prepare.limit = {params.limit} is less than the {len(source.classes)} classes; "
            "every class needs an image"
        )
    channels = params.channels or (3 if source.has_colour() else 1)
    copies = Copies()
    counts, skipped = {}, []
    for split in SPLITS:
        images = _limited(source.splits[split], params.limit, params.seed)
        labels, failed = _write_split(images, target, split, channels, params, copies)
        counts[split] = _counts(labels, source.classes, split, failed)
        skipped += failed
        print(f"{split}: {len(labels)} images, {len(failed)} skipped", flush=True)
    require_used_bits(source.reading)
    warnings = _warn(copies.messages(), flat_images(source.reading), params)
    mean, std = _channel_statistics(target / "train_images.npy", source.reading)
    manifest = {
        "source": params.source,
        "classes": source.classes,
        "image_size": params.image_size,
        "fit": params.fit,
        "transparent": params.transparent,
        "bits": params.bits or 16,
        "channels": channels,
        "mean": mean,
        "std": std,
        "counts": counts,
        "skipped": skipped,
        "warnings": warnings,
        "sha256": {path.name: file_sha256(path) for path in sorted(target.glob("*.npy"))},
    }
    write_json(target / "manifest.json", manifest)
    return manifest


def _warn(leaks: list[str], others: list[str], params: Prepare) -> list[str]:
    """Print what is odd, and return it; `DataError` where leaks are to be fatal."""
    if leaks and params.on_leak == "fail":
        raise DataError(f"{'; '.join(leaks)}; remove the copies, or set prepare.on_leak: warn")
    for warning in leaks + others:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return leaks + others


def _limited(images: LazySplit, limit: int | None, seed: int) -> LazySplit:
    """Keep at most `limit` images drawn at random, in turn from each class that has some left."""
    if limit is None or limit >= len(images.labels):
        return images
    shuffled = np.random.default_rng(seed).permutation(len(images.labels))
    by_class = shuffled[np.argsort(images.labels[shuffled], kind="stable")]
    labels = images.labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(labels, labels)  # 0 for each class's first
    chosen = np.sort(by_class[np.argsort(turn, kind="stable")][:limit])

    def read(rows: Rows, finish: Finish = as_read) -> Pixels:
        return images.read(chosen[rows], finish)

    return LazySplit(
        images.labels[chosen], read, lambda row: images.name(chosen[row]), images.chunk
    )


def _write_split(
    images: LazySplit, target: Path, split: str, channels: int, params: Prepare, copies: Copies
) -> tuple[Labels, list[Skipped]]:
    """Write one split's images and labels; return the labels and the skipped files."""
    fit, size = FITS[params.fit], params.image_size

    def load(rows: Rows) -> tuple[Rows, Pixels | UnreadableImageError]:
        try:
            return rows, images.read(rows, lambda own: fit(with_channels(own, channels), size))
        except UnreadableImageError as e:
            return rows, e

    n = len(images.labels)
    image_bytes = channels * size * size
    step = max(1, min(images.chunk, CHUNK_BYTES // image_bytes))
    chunks = (np.arange(i, min(i + step, n)) for i in range(0, n, step))
    kept: list[Rows] = []
    skipped: list[Skipped] = []
    reader = closing(_in_threads(load, chunks, BUFFER_BYTES // (step * image_bytes)))
    with (target / f"{split}_images.npy").open("wb") as file, reader as loaded:
        _write_header(file, (n, channels, size, size))
        for rows, pixels in progress(loaded, split, total=-(-n // step)):
            if not isinstance(pixels, UnreadableImageError):
                file.write(pixels.tobytes())
                kept.append(rows)
                for row, image in zip(rows.tolist(), pixels, strict=True):
                    copies.add(split, images, row, image)
            elif params.on_corrupt == "skip":
                skipped.append({"file": pixels.file, "reason": pixels.reason})
            else:
                raise pixels
        labels = images.labels[np.concatenate([np.arange(0), *kept])]
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


def _in_threads(
    function: Callable[[T], U], items: Iterator[T], most: int
) -> Generator[U, None, None]:
    """Map in order, several at once; unlike `Executor.map`, never more than `most` ahead."""
    workers = min(os.cpu_count() or 1, max(1, most))
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(items, max(1, min(4 * workers, most)))):
            yield from pool.map(function, some)


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


def _channel_statistics(images: Path, reading: Reading) -> tuple[list[float], list[float]]:
    """Return mean and (population) standard deviation per channel, of pixels scaled to 0..1.

    They come from exact counts of the 256 values, so that chunks and rounding do not matter.
    """
    with images.open("rb") as file:
        np.lib.format.read_magic(file)
        (_, channels, *size), _, _ = np.lib.format.read_array_header_1_0(file)
        counts = np.zeros((channels, 256), dtype=np.int64)
        image = channels * math.prod(size)
        whole = max(1, CHUNK_BYTES // image) * image  # each value is counted as 8 bytes
        while len(values := np.fromfile(file, np.uint8, whole)):
            part = values.reshape(-1, channels, math.prod(size))
            counts += [np.bincount(part[:, c].ravel(), minlength=256) for c in range(channels)]
    levels = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ levels
    std = np.sqrt((weights * (levels - mean[:, None]) ** 2).sum(axis=1))
    if not std.all():
        remedy = "check the images, or prepare.channels"
        if see_through := sum(reading.flat.values()):
            remedy = (
                f"{see_through} have transparent parts: choose another ground for them than "
                f"prepare.transparent = {reading.transparent!r}"
            )
        raise DataError(
            f"channel {int(np.argmin(std))} has the same value in all pixels of all train images; "
            f"there is nothing to learn from: {remedy}"
        )
    return mean.tolist(), std.tolist()
