"""The networks drawn as strips of blocks, a strip per level, the removed ones marked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.choice import Choice

Metrics = Mapping[str, Any]  # one variant's metrics file of one stage
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A block at a level: ``kept``, ``fixed`` (cannot go), ``out`` or ``earlier`` (in training)."""

    state: str
    text: str


@dataclass(frozen=True)
class Strip:
    """A level of a variant."""

    level: int
    cells: list[Cell]
    val_accuracy_pct: float
    chosen: bool
    recommended: bool


@dataclass(frozen=True)
class Network:
    """A variant's blocks, in the order in which they run, and its levels."""

    variant: str
    blocks: list[str]
    strips: list[Strip]
    dead: dict[str, str]  # blocks whose branch only adds a constant, and what shows it


def networks(
    rows: Sequence[Row], metrics: Mapping[str, Mapping[str, Metrics]], choice: Choice
) -> list[Network]:
    """Return a drawing per variant; of its rows those in float32."""
    return [_network(variant, own, rows, choice) for variant, own in metrics.items()]


def _network(
    variant: str, metrics: Mapping[str, Metrics], rows: Sequence[Row], choice: Choice
) -> Network:
    known = {block["name"]: block for block in metrics["score"]["blocks"]}
    gone = metrics["train"]["removed"]
    blocks = in_order(known, gone)
    levels = [row for row in rows if row["variant"] == variant and row["precision"] == "fp32"]
    strips = [
        Strip(
            row["level"],
            [_cell(name, known.get(name), row) for name in blocks],
            row["val_accuracy_pct"],
            row["chosen"],
            choice.chosen is not None
            and (choice.chosen.variant, choice.chosen.level) == (variant, row["level"]),
        )
        for row in levels
    ]
    dead = {name: found["how"] for name, found in metrics["plan"]["dead"].items()}
    return Network(variant, blocks, strips, dead)


def in_order(known: Iterable[str], gone: Iterable[str]) -> list[str]:
    """Return all blocks as they run: `known` in their order, those gone put where names say.

    A network does not know any more where blocks were that it lost while it was trained; the
    numbers in their names do.
    """
    order = list(known)
    for name in sorted(gone, key=_by_numbers):
        later = (i for i, other in enumerate(order) if _by_numbers(other) > _by_numbers(name))
        order.insert(next(later, len(order)), name)
    return order


def _by_numbers(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _cell(name: str, block: Mapping[str, Any] | None, row: Row) -> Cell:
    if block is None:
        return Cell("earlier", f"{name}: went in training")
    if name in row["removed"]:
        return Cell("out", f"{name}: out, replaced by {row['replacement']}")
    if not block["removable"]:
        return Cell("fixed", f"{name}: {block['reason']}")
    return Cell("kept", f"{name}: kept")
