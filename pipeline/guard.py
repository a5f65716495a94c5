"""Errors that a user can mend are one line on standard error and exit code 1, not a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import ShoalError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line where a `ShoalError` or a full disk ends what is inside."""
    try:
        yield
    except ShoalError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: the disk is full (writing {e.filename or 'an output'}); free some space")
