"""Whether a value that was read is what it must be, and how a text is shown."""

from typing import Any

LARGEST = 1 << 63  # no number in a bundle reaches it; neither infinity nor NaN is less


class BundleError(Exception):
    """Something is wrong with the bundle or with what it was given; the message is for the user."""


def fault(value: Any, kind: Any, where: str = "it") -> str | None:
    """Return in words what is wrong with the type of a value; None where nothing is.

    Args:
        value: out of JSON.
        kind: a type (`float` also takes int; numbers are finite), a tuple of kinds of which one
            must hold, None, a list of one kind for all items, or a dict of kinds by key; the key
            `str` stands for any.
        where: the value's name.
    """
    if isinstance(kind, tuple):
        faults = [fault(value, each, where) for each in kind]
        return None if None in faults else faults[0]
    if isinstance(kind, list) and isinstance(value, list):
        return _first_fault(enumerate(value), lambda _: kind[0], where)
    if not isinstance(kind, dict) or not isinstance(value, dict):
        return None if _is_a(value, kind) else _wrong(value, kind, where)
    named = {key for key in kind if key is not str}
    if missing := named - value.keys():
        return f"{where} has no {', '.join(sorted(missing))}"
    parts = {key: part for key, part in value.items() if key in named or str in kind}
    return _first_fault(parts.items(), lambda key: kind.get(key, kind.get(str)), where)


def shown(text: str) -> str:
    """Return a text in one line: what a terminal could take for a command is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _first_fault(parts: Any, kind_of: Any, where: str) -> str | None:
    faults = (
        fault(value, kind_of(key), f"{where}.{key}".removeprefix("it.")) for key, value in parts
    )
    return next(filter(None, faults), None)


def _is_a(value: Any, kind: Any) -> bool:
    if kind is None or isinstance(kind, (list, dict)):
        return kind is None and value is None
    if kind in (int, float):
        numbers = int if kind is int else (int, float)
        return type(value) is not bool and isinstance(value, numbers) and abs(value) < LARGEST
    return isinstance(value, kind)


def _wrong(value: Any, kind: Any, where: str) -> str:
    kind = type(kind) if isinstance(kind, (list, dict)) else kind
    name = "null" if kind is None else kind.__name__
    return f"{where} must be {name}, is {repr(value)[:60]}"
