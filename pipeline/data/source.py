"""What a source of images gives: classes and, for each split, labels and a way to read pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Int64, UInt8

from models.errors import DataError
from pipeline.core.params import Prepare
from pipeline.data.reading import Reading

Labels = Int64[np.ndarray, "n"]
Rows = Int64[np.ndarray, "k"]
Pixels = UInt8[np.ndarray, "k c h w"]

SPLITS = ("train", "validation", "test")


class UnreadableImageError(DataError):
    """One image file that cannot be decoded; `file` and `reason` go into the manifest."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(
            f"{file} cannot be read as an image: {reason}; replace or remove it, "
            "or set prepare.on_corrupt: skip"
        )
        self.file = file
        self.reason = reason


Finish = Callable[[Pixels], Pixels]


class Read(Protocol):
    """Reads rows, and returns what `finish` makes of them: until then they count as held."""

    def __call__(self, rows: Rows, finish: Finish = ...) -> Pixels:
        """Return the pixels of these rows, finished."""


@dataclass(frozen=True)
class LazySplit:
    """The images of one split, in a fixed order, read on demand.

    `read` takes at most `chunk` row numbers and passes their pixels on at their own size, grey
    (c = 1) or colour (c = 3); it may be called from several threads. Where sizes differ from image
    to image, `chunk` is 1. `name` says which image a row is.
    """

    labels: Labels
    read: Read
    name: Callable[[int], str]
    chunk: int = 1


def as_read(pixels: Pixels) -> Pixels:
    """Return the pixels themselves: the `finish` that changes nothing."""
    return pixels


@dataclass(frozen=True)
class Source:
    """Class names in label order, the three splits, and whether any image has colour.

    `reading` has what was noticed in the files that were read so far.
    """

    classes: list[str]
    splits: dict[str, LazySplit]
    has_colour: Callable[[], bool]
    reading: Reading = field(default_factory=Reading)


def array_source(
    params: Prepare, classes: list[str], train: tuple[Pixels, Labels], test: tuple[Pixels, Labels]
) -> Source:
    """Return a source of images in memory; validation is a stratified part of `train`.

    Raises:
        DataError: a class has too few images to split.
    """
    images, labels = train
    parts = stratified_split(labels, fractions(params, "validation"), classes, params.seed)
    splits = {part: _in_memory("train", images, labels, rows) for part, rows in parts.items()}
    splits["test"] = _in_memory("test", *test, np.arange(len(test[1])))
    return Source(classes, splits, has_colour=lambda: images.shape[1] == 3)


def _in_memory(origin: str, images: Pixels, labels: Labels, own: Rows) -> LazySplit:
    def read(rows: Rows, finish: Finish = as_read) -> Pixels:
        return finish(images[own[rows]])

    return LazySplit(labels[own], read, lambda row: f"{origin} image {own[row]}", chunk=1024)


def fractions(params: Prepare, *splits: str) -> dict[str, float]:
    """Return the share of train that each split takes."""
    return {split: getattr(params, f"{split}_fraction") for split in splits}


def stratified_split(
    labels: Labels, fractions: dict[str, float], classes: list[str], seed: int
) -> dict[str, Rows]:
    """Split the rows of `train`: each name in `fractions` takes that share of every class.

    A share is rounded, and is never less than one image. Rows come back sorted; "train" keeps the
    rest. The same seed gives the same parts.

    Raises:
        DataError: a class has too few images to leave one in every part.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Rows]] = {name: [] for name in ("train", *fractions)}
    for label, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        taken = {part: max(1, round(share * len(rows))) for part, share in fractions.items()}
        if sum(taken.values()) >= len(rows):
            shares = " and ".join(f"{part} takes {number}" for part, number in taken.items())
            keys = " or ".join(f"prepare.{part}_fraction" for part in taken)
            raise DataError(
                f"class {name!r} has too few images in train to split ({len(rows)}): {shares}, "
                f"which leaves none to train on; add images, or lower {keys}"
            )
        *own, rest = np.split(rows, np.cumsum(list(taken.values())))
        for part, chosen in zip((*fractions, "train"), (*own, rest), strict=True):
            parts[part].append(chosen)
    return {part: np.sort(np.concatenate(rows)) for part, rows in parts.items()}
