"""How files become pixels, what was noticed in them meanwhile, and how many are held at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

HELD_PIXELS = 100e6  # of the files that are decoded at a time; some 15 bytes each


class Turns:
    """Lets threads go on as long as what they hold together is below a limit; one always may."""

    def __init__(self, limit: float) -> None:
        self._limit, self._held, self._changed = limit, 0, Condition()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Wait for a turn and keep it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self._limit)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


@dataclass
class Reading:
    """How files become pixels, as `prepare` has it, and what was noticed meanwhile."""

    transparent: str = "black"
    bits: int | None = None
    max_megapixels: float = 89.0
    turns: Turns = field(default_factory=lambda: Turns(HELD_PIXELS))
    largest: list[int] = field(default_factory=list)  # value of each grey file of 16 bits
    largest_in_colour: list[int] = field(default_factory=list)
    flat: dict[str, bool] = field(default_factory=dict)  # of one colour: has it transparent parts?
