"""Errors a user can cause and fix; a stage prints them as one line and exits with 1."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


class OutOfMemoryError(ShoalError):
    """What is to be held at once does not fit into memory."""


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


# Messages of torch on the CPU and on CUDA, of its C++ libraries, oneDNN, cuDNN and cuBLAS. That
# oneDNN has no primitive descriptor is no shortage: it does not know the operation.
SHORTAGE = re.compile(
    r"can't allocate memory|out of memory|bad[ _]alloc|_ALLOC(ATION)?_FAILED"
    r"|could not (create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)
WANTED = re.compile(r"you tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \wiB)")


def printable(text: str) -> str:
    """Return a text in one line, what is no text in it escaped: a file's name may hold anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn a shortage of memory in what is done inside into an `OutOfMemoryError`.

    Args:
        remedy: what to do about it, as the end of a sentence.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as e:  # torch has no type of its own for it on the CPU
        if isinstance(e, RuntimeError) and not SHORTAGE.search(str(e)):
            raise
        found = WANTED.search(str(e))
        size = next(filter(None, found.groups())) if found else ""
        why = (
            f"no room for {size}{' bytes' * size.isdecimal()} more"
            if size
            else str(e) or "an allocation failed"
        )
        message = f"the memory is not enough ({' '.join(why.split())}); {remedy}"
        raise OutOfMemoryError(message) from e
