"""The order of a network's blocks where some are known by their name alone."""

import re
from collections.abc import Iterable


def in_order(known: Iterable[str], removed: Iterable[str]) -> list[str]:
    """Return all blocks as they run: `known` in their order, `removed` placed by their names.

    A network does not know where the blocks were that were removed while it was trained; the
    numbers in their names do.
    """
    order = list(known)
    for name in sorted(removed, key=_by_numbers):
        later = (i for i, other in enumerate(order) if _by_numbers(other) > _by_numbers(name))
        order.insert(next(later, len(order)), name)
    return order


def _by_numbers(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
