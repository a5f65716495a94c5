"""Latency, memory and energy of engines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.benchmark.timing.interleaved import measure as measure


def __getattr__(name: str) -> object:
    """Hand on the public name when it is asked for; other modules start without its imports."""
    if name == "measure":
        from pipeline.benchmark.timing.interleaved import measure

        return measure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
