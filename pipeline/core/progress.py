"""How far a loop is: a bar with rate and time left in a terminal, now and then a line elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

QUIET = "SHOAL_QUIET"  # an environment variable; set to anything, no progress is shown
LINE_EVERY_S = 30.0
DRAW_EVERY_S = 0.2

T = TypeVar("T")


def is_quiet() -> bool:
    """Say whether results and errors alone are wanted."""
    return bool(os.environ.get(QUIET))


def progress(
    items: Iterable[T], label: str, *, total: int | None = None, unit: str = "it"
) -> Iterable[T]:
    """Pass `items` on and show on standard error how far they are."""
    if is_quiet():
        return items
    if total is None and isinstance(items, Sized):
        total = len(items)
    show = _bar if sys.stderr.isatty() else _lines
    return show(items, label, total, unit)


def _lines(items: Iterable[T], label: str, total: int | None, unit: str) -> Iterator[T]:
    """Print every `LINE_EVERY_S`; a loop that is done before prints nothing."""
    start = printed = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - printed > LINE_EVERY_S:
            printed = now
            text = _counted(done, total, unit, now - start)
            print(f"{label}: {text}", file=sys.stderr, flush=True)
        yield item


def _bar(items: Iterable[T], label: str, total: int | None, unit: str) -> Iterator[T]:
    """Draw a bar, which goes away with the loop.

    It is drawn between items and not by a thread beside them: loops that time engines use it.
    """
    with _empty_bar() as bar:
        task = bar.add_task(label, total=total, counted="")
        start = drawn = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and now - drawn > DRAW_EVERY_S:
                drawn = now
                counted = _counted(done, total, unit, now - start)
                bar.update(task, completed=done, counted=counted, refresh=True)
            yield item


def _empty_bar() -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}", markup=False),
        console=_terminal(),
        transient=True,
        auto_refresh=False,
        redirect_stdout=sys.stdout.isatty(),
    )


@cache
def _terminal() -> "Console":
    """Return the terminal that is standard error; one for all bars, so that inner ones go below."""
    from rich.console import Console

    return Console(stderr=True)


def _counted(done: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """Return e.g. ``120 of 422 batch, 4.0 batch/s, 75 s left``."""
    rate = done / elapsed_s
    if total is None:
        return f"{done} {unit}, {rate:.1f} {unit}/s"
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"{done} of {total} {unit}, {rate:.1f} {unit}/s{left}"
