"""A shortage of memory is one error, whoever asked for it: NumPy, or torch on any device."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import ShoalError

# What torch says on the CPU and on CUDA, what its C++ libraries, oneDNN, cuDNN and cuBLAS say. That
# oneDNN has no primitive descriptor is no shortage: the operation is one it does not know.
SHORTAGE = re.compile(
    r"can't allocate memory|out of memory|bad[ _]alloc|_ALLOC(ATION)?_FAILED"
    r"|could not (create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)
WANTED = re.compile(r"you tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \wiB)")


class OutOfMemoryError(ShoalError):
    """What is to be held at once does not fit into memory."""


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn a shortage of memory in what is done inside into an `OutOfMemoryError`.

    Args:
        remedy: what to do about it, as the end of a sentence.
    """
    try:
        yield
    except MemoryError as e:
        raise _shortage(e, remedy) from e
    except RuntimeError as e:  # torch has no type of its own for it on the CPU
        if not SHORTAGE.search(str(e)):
            raise
        raise _shortage(e, remedy) from e


def _shortage(error: Exception, remedy: str) -> OutOfMemoryError:
    found = WANTED.search(str(error))
    size = next(filter(None, found.groups())) if found else ""
    said = f"no room for {size}{' bytes' * size.isdecimal()} more" if size else str(error)
    return OutOfMemoryError(f"the memory is not enough ({' '.join(said.split())}); {remedy}")
