"""What a check found: a state, what it means, and what to do."""

from dataclasses import dataclass

OK, WARNING, FAILS = "ok", "warning", "fails"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        subject: what was looked at.
        state: ``ok``; ``warning``: the configured pipeline runs, but not all of it; ``fails``: it
            cannot run.
        found: what was found.
        remedy: what to do about it.
    """

    subject: str
    state: str
    found: str
    remedy: str = ""
