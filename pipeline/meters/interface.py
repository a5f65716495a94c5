"""What every meter offers."""

from collections.abc import Callable

# Starts to measure; what it returns ends the measurement and returns the joules used since, by
# what they were used for: ``package-0``, ``gpu0``, ``VDD_IN``. Idle power is part of them.
EnergyMeter = Callable[[], Callable[[], dict[str, float]]]


class Unreadable(Exception):  # noqa: N818 - a state of the machine, not a mistake
    """This machine does not offer the quantity; the message says why."""
