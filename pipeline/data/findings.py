"""What is odd about images that can all be read: the same one twice, one colour, unused bits."""

from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import combinations

import numpy as np
from jaxtyping import UInt8

from models.errors import DataError
from pipeline.data.decoding import examples
from pipeline.data.reading import Reading
from pipeline.data.source import SPLITS, LazySplit

USUAL_BITS = (8, 10, 12, 14)


class Copies:
    """Finds images that are equal as prepared, pixel by pixel, in two splits or in two classes.

    Those of one colour are left out: `flat_images` tells them.
    """

    def __init__(self) -> None:
        self._names: dict[str, Callable[[int], str]] = {}
        self._seen = array("Q")  # of each image a hash, and the numbers of its split, label and row

    def add(
        self, split: str, images: LazySplit, row: int, image: UInt8[np.ndarray, "c h w"]
    ) -> None:
        """Keep what one more image is compared by."""
        self._names[split] = images.name
        if (image != image.flat[0]).any():
            key = int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest())
            self._seen.extend((key, SPLITS.index(split), int(images.labels[row]), row))

    def messages(self) -> list[str]:
        """Return a line for each pair of splits, and one for classes, with counts and examples."""
        keys, splits, labels, rows = np.array(self._seen).reshape(-1, 4).T
        _, place, inverse = np.unique(keys, return_index=True, return_inverse=True)
        first = place[inverse]

        def name(image: int) -> str:
            return self._names[SPLITS[splits[image]]](int(rows[image]))

        def told(copies: np.ndarray) -> str:
            pairs = [f"{name(image)} = {name(first[image])}" for image in copies[:4]]
            return f"({examples(pairs)})"

        found = []
        for other, split in combinations(range(len(SPLITS)), 2):
            copies = np.flatnonzero((splits == split) & (splits[first] == other))
            if len(copies):
                images = f"{len(copies)} of {(splits == split).sum()} {SPLITS[split]} images"
                found.append(f"{images} are in {SPLITS[other]} too {told(copies)}")
        copies = np.flatnonzero(labels != labels[first])
        if len(copies):
            found.append(f"{len(copies)} images are in two classes {told(copies)}")
        return found


def flat_images(reading: Reading) -> list[str]:
    """Return a line where images were read that are of one colour, with counts and examples."""
    if not reading.flat:
        return []
    see_through = sum(reading.flat.values())
    why = (
        f"; {see_through} of them have transparent parts, through which shows prepare.transparent "
        f"= {reading.transparent!r}"
    )
    flat = f"{len(reading.flat)} images are of one colour ({examples(sorted(reading.flat))})"
    return [flat + why * bool(see_through)]


def require_used_bits(reading: Reading) -> None:
    """Raise `DataError` where files of 16 bits leave so many unused that detail would be lost."""
    if reading.bits is None:
        _require(reading.largest, "set prepare.bits: {} (or 16, where the images are that dark)")
        _require(
            reading.largest_in_colour,
            "as colour of 16 bits is read as its upper 8, store them with 8 bits (or set "
            "prepare.bits: 16, where the images are that dark)",
        )


def _require(largest: Sequence[int], remedy: str) -> None:
    high = max(largest, default=2**16)
    used = next((bits for bits in USUAL_BITS if high < 2**bits), 16)
    if used < 16:
        raise DataError(
            f"{len(largest)} files of 16 bits hold values of 0 to {high}, which are {used} bits; "
            + remedy.format(used)
        )
