"""How far a loop is: a bar with rate and ETA in a terminal, now and then a plain line elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

QUIET = "SHOAL_QUIET"  # an environment variable; set to anything, nothing is told
LINE_EVERY_S = 30.0

T = TypeVar("T")


def progress(
    items: Iterable[T], label: str, *, total: int | None = None, unit: str = "it"
) -> Iterable[T]:
    """Pass `items` on and tell on standard error how far they are."""
    if os.environ.get(QUIET):
        return items
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar: Iterable[T] = tqdm(items, desc=label, total=total, unit=unit, leave=False)
        return bar
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _lines(items, label, total, unit)


def _lines(items: Iterable[T], label: str, total: int | None, unit: str) -> Iterator[T]:
    """Tell every `LINE_EVERY_S`; a loop that is done before says nothing."""
    start = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told > LINE_EVERY_S:
            told = now
            print(_line(label, done, total, unit, now - start), file=sys.stderr, flush=True)
        yield item


def _line(label: str, done: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """Return e.g. ``epoch 2/3: 120 of 422 batch, 4.0 batch/s, 75 s left``."""
    rate = done / elapsed_s
    if total is None:
        return f"{label}: {done} {unit}, {rate:.1f} {unit}/s"
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"{label}: {done} of {total} {unit}, {rate:.1f} {unit}/s{left}"
