"""What a source of images gives: classes and, for each split, labels and a way to read pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from models.errors import DataError

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


@dataclass(frozen=True)
class Material:
    """The images of one split, in a fixed order, read on demand.

    `read` takes at most `chunk` row numbers and returns their pixels at their own size, grey
    (c = 1) or colour (c = 3); it may be called from several threads. Where sizes differ from image
    to image, `chunk` is 1.
    """

    labels: Labels
    read: Callable[[Rows], Pixels]
    chunk: int = 1


@dataclass(frozen=True)
class Source:
    """Class names in label order, the three splits, and whether any image has colour."""

    classes: list[str]
    splits: dict[str, Material]
    has_colour: Callable[[], bool]


def stratified_split(
    labels: Labels, fractions: dict[str, float], classes: list[str], seed: int
) -> dict[str, Rows]:
    """Part the rows of `train`: each name in `fractions` takes that share of every class.

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
            raise DataError(_too_small(name, len(rows), taken))
        *own, rest = np.split(rows, np.cumsum(list(taken.values())))
        for part, chosen in zip((*fractions, "train"), (*own, rest), strict=True):
            parts[part].append(chosen)
    return {part: np.sort(np.concatenate(rows)) for part, rows in parts.items()}


def _too_small(name: str, count: int, taken: dict[str, int]) -> str:
    shares = " and ".join(f"{part} takes {number}" for part, number in taken.items())
    keys = " or ".join(f"prepare.{part}_fraction" for part in taken)
    return (
        f"class {name!r} has too few images in train to split ({count}): {shares}, which leaves "
        f"none to train on; add images, or lower {keys}"
    )
