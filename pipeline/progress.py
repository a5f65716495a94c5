"""A progress bar with rate and ETA in a terminal; elsewhere nothing, plain lines are printed."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], label: str, *, total: int | None = None, unit: str = "it"
) -> Iterable[T]:
    """Pass `items` on, drawing a bar on standard error while it is a terminal."""
    bar: Iterable[T] = tqdm(
        items, desc=label, total=total, unit=unit, leave=False, disable=not sys.stderr.isatty()
    )
    return bar
