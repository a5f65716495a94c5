"""Tables of the command line: in a terminal no wider than it and coloured, elsewhere plain."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table

GAP = 2  # between columns
NO_EDGE = 10_000  # columns of a file or a pipe: no line is broken there


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


class _Output(Console):
    """Standard output, whose reader may go away."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command's frame, which has an exit code for it."""
        raise BrokenPipeError


def console() -> Console:
    """Return where tables and styled lines are printed."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else NO_EDGE
    return _Output(width=width, highlight=False, markup=False, emoji=False)


def print_table(
    columns: Sequence[Column],
    items: Sequence[Any],
    style: Callable[[Any], str | None] = lambda _: None,
) -> list[str]:
    """Print a head and one line per item.

    Args:
        columns: from left to right.
        items: what the columns' cells are made of.
        style: returns the style of an item's line, e.g. ``green``.

    Returns:
        The titles of columns that the terminal has no room for.
    """
    out, kept = console(), list(columns)
    widths = {column.title: _width(column, items) for column in columns}
    while sum(widths[column.title] + GAP for column in kept) - GAP > out.width:
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in kept:
        justify: JustifyMethod = "left" if column.left else "right"
        words = column.left and column is kept[-1]  # may take several lines
        width = None if words else widths[column.title]
        table.add_column(column.title, justify=justify, no_wrap=not words, width=width)
    for item in items:
        table.add_row(*(column.cell(item) for column in kept), style=style(item))
    out.print(table)
    return [column.title for column in columns if column not in kept]


def _width(column: Column, items: Sequence[Any]) -> int:
    return max(map(cell_len, (column.title, *(column.cell(item) for item in items))))
