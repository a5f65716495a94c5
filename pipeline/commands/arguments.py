"""Types of arguments; what they refuse is wrong usage, told by argparse."""

import argparse


def count(text: str) -> int:
    """Return a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 0 or more")
    return int(text)


def one_or_more(text: str) -> int:
    """Return a whole number, 1 or more."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too small; at least 1")
    return value


def positive(text: str) -> float:
    """Return a number above 0."""
    value = positive_limit(text)
    if value is None:
        raise argparse.ArgumentTypeError("none is no number")
    return value


def limit(text: str) -> float | None:
    """Return a number, 0 or more; None of ``none``, which lifts a limit."""
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number, 0 or more, nor `none`")
    return value


def positive_limit(text: str) -> float | None:
    """Return a number above 0; None of ``none``."""
    value = limit(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too small")
    return value
