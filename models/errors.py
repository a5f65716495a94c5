"""Errors a user can cause and fix; a stage prints them as one line and exits with 1.

ShoalError
├── ParamsError              params.yaml: unknown key, wrong type, value out of range
├── DataError                missing or corrupt images, empty classes, wrong folder layout
├── UnknownModelError        no model of that name
├── WeightsError             initial weights are missing, damaged, unreachable or do not fit
├── BlockError               unknown block, or one that cannot be removed
├── ArtifactError            a file of an earlier stage is missing or damaged
├── ParityError              two networks that must agree do not
├── OutOfMemoryError         what is held at once does not fit (models/memory.py)
└── BackendError             an engine could not be built or run
    ├── BackendUnavailable   the backend's package, device or arithmetic is not here
    └── PrecisionError       a graph or an engine is not of the precision on its label
"""

import difflib
from collections.abc import Iterable


class ShoalError(Exception):
    """Base of every error that names a value, what is allowed and the fix."""


class ParamsError(ShoalError):
    """A value in params.yaml is unknown, of the wrong type or out of range."""


class DataError(ShoalError):
    """Images or labels are missing, corrupt or laid out wrongly."""


class UnknownModelError(ShoalError):
    """No model of that name exists."""


class WeightsError(ShoalError):
    """Initial weights are missing, damaged, cannot be fetched, or are another network's."""


class BlockError(ShoalError):
    """A block is unknown or cannot be removed."""


class ArtifactError(ShoalError):
    """A file of an earlier stage is missing or damaged."""


class ParityError(ShoalError):
    """Two networks that must give the same output do not."""


class BackendError(ShoalError):
    """An engine could not be built, loaded or run."""


class BackendUnavailable(BackendError):  # noqa: N818 - a state of the machine, not a mistake
    """The backend's package or device is not on this machine, or has no such arithmetic."""


class PrecisionError(BackendError):
    """A graph or an engine does not hold the types that its label says."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a', 'b'?"`` for the known names close to `name`, else ``""``."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
