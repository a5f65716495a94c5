"""Changes of values and damage to text, at random but each from a seed that says it again."""

import copy
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 10**30, -(10**30), 10**400, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, "", "auto", "a\nb", "<script>", "../../etc", "\0", "\x1b[2J"),
    *("1e-3", "ü", "u\u0308", "\ud800", "x" * 5000, [], [[]], [None], {}, {"": None}),
    *([1, "a", {}], [0] * 2000, {"a": {"a": {"a": []}}}),
]
ODD_YAML = [*ODD, b"\xff\xfe", {1: 2}, {None: {}}, (1, 2)]
PIECES = [b"", b"\xff", b"\0", b" ", b"\n", b": ", b", ", b"&a *a", b"[", b"{", b'"', b"9e999"]
LARGEST = 10**100  # of numbers that are changed a little


def changed(value: Any, rng: Random, odd: Sequence[Any]) -> Any:
    """Return a value with one of its parts changed; what is not changed is shared with it.

    Args:
        value: dicts and lists within each other.
        rng: decides which part and how.
        odd: what may stand in the place of a part.
    """
    if not isinstance(value, dict | list) or not value:
        return copy.deepcopy(rng.choice(odd))
    made = value.copy()
    key = rng.choice(list(made) if isinstance(made, dict) else range(len(made)))
    if isinstance(made[key], dict | list) and made[key] and rng.random() < 0.75:
        made[key] = changed(made[key], rng, odd)
    elif isinstance(made, dict):
        rng.choice(OF_DICTS)(made, key, rng, odd)
    else:
        rng.choice(OF_LISTS)(made, key, rng, odd)
    return made


def damaged(text: bytes, rng: Random) -> bytes:
    """Return a text with up to five pieces cut out, doubled, or replaced by others."""
    made = bytearray(text)
    for _ in range(rng.randint(1, 5)):
        start = rng.randrange(len(made) + 1)
        stop = start + rng.choice([0, 1, 10, len(made)])
        piece = rng.choice(PIECES) if rng.random() < 0.8 else bytes(made[start : start + 50]) * 2
        made[start:stop] = piece
    return bytes(made)


def _replaced(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    made[key] = copy.deepcopy(rng.choice(odd))


def _nearly(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    """Put in what is of the same type, and hardly another value or far from it."""
    value = made[key]
    if isinstance(value, str):
        made[key] = rng.choice([value[:-1], value[1:], value + "x", value.upper(), value * 2])
    elif isinstance(value, int | float) and type(value) is not bool and abs(value) < LARGEST:
        made[key] = rng.choice([value + 1, -value, value * 1_000_003, value // 2, value * 0.5])
    else:
        _replaced(made, key, rng, odd)


def _dropped(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    del made[key]


def _taken_from_beside(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    other = rng.choice(list(made) if isinstance(made, dict) else range(len(made)))
    made[key], made[other] = made[other], made[key]


def _renamed(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    made[rng.choice([f"{key}s", f"{key}"[1:], f"{key}".upper(), f"{key} "])] = made.pop(key)


def _repeated(made: Any, key: Any, rng: Random, odd: Sequence[Any]) -> None:
    made.insert(rng.randrange(len(made) + 1), made[key])


Change = Callable[[Any, Any, Random, Sequence[Any]], None]
OF_DICTS: list[Change] = [_replaced, _replaced, _nearly, _dropped, _renamed, _taken_from_beside]
OF_LISTS: list[Change] = [_replaced, _replaced, _nearly, _dropped, _repeated, _taken_from_beside]
