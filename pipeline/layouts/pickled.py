"""Arrays, lists and strings out of a pickle, without running what a pickle may hold.

A pickle is a program: read plainly, it may call any function. Here it can make nothing but plain
values and records of arrays, whatever it holds.
"""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DataError

ARRAY_NAMES = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
# What unpickling raises on damaged files.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    struct.error,
)


class Stored:
    """An array or a dtype as a pickle has it: the arguments it is made with, and its state.

    NumPy's own restoring takes a file at its word and can be led astray by it.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def uint8(self) -> np.ndarray | None:
        """Return the array, row by row, that this stands for; None where it is another thing."""
        match self.state:
            case (_, tuple(shape), Stored(arguments=(b"u1", *_)), 0, bytes(values)):
                try:
                    return np.frombuffer(values, np.uint8).reshape(shape)
                except (TypeError, ValueError):
                    return None
        return None


class _Unpickler(pickle._Unpickler):
    """Python's own machine: the one in C reserves whatever memory an index in a file asks for."""

    def find_class(self, module: str, name: str) -> type[Stored]:
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return Stored


def unpickle(path: Path) -> Any:
    """Return what a pickle of Python 2 holds: its strings as bytes, its arrays as `Stored`.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    except UNPICKLING_ERRORS as e:
        raise DataError(
            f"{path} is damaged or not the published file ({e}); unpack the archive again"
        ) from e
