"""A table of plain text, no wider than the terminal; colours only where a terminal shows them."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
STYLES = {"bold": "1", "green": "32", "yellow": "33", "red": "31", "dim": "2"}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its head.
        cell: returns the text of an item.
        rank: where the table is too wide, columns of the highest rank go first; 0 always stays.
        left: aligned to the left, as words are.
    """

    title: str
    cell: Callable[[Any], str]
    rank: int = 0
    left: bool = False


def table(
    columns: Sequence[Column], items: Sequence[Any], width: int | None
) -> tuple[list[str], list[str]]:
    """Return a head and one line per item, and the titles of columns left out for `width`."""
    cells = [[column.title, *(column.cell(item) for item in items)] for column in columns]
    widths = [max(map(len, column)) for column in cells]
    kept = _fitting(columns, widths, width)
    lines = [
        GAP.join(
            cells[k][n].ljust(widths[k]) if columns[k].left else cells[k][n].rjust(widths[k])
            for k in kept
        ).rstrip()
        for n in range(len(items) + 1)
    ]
    return lines, [column.title for k, column in enumerate(columns) if k not in kept]


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> list[int]:
    kept = list(range(len(columns)))
    while width is not None and sum(widths[k] + len(GAP) for k in kept) - len(GAP) > width:
        last = max(kept, key=lambda k: columns[k].rank)
        if columns[last].rank == 0:
            break
        kept.remove(last)
    return kept


def terminal_width() -> int | None:
    """Return the columns of the terminal that is written to; None for a file or a pipe."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return shutil.get_terminal_size().columns


def styled(text: str, style: str) -> str:
    """Return `text` in a style of `STYLES` where a terminal shows it and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if plain or not sys.stdout.isatty():
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"
