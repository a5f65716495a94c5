"""What a library in C++ prints on standard error, past Python."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Yield a list that holds the lines written to standard error, once the block has ended.

    It is the process's standard error: what other threads print meanwhile is caught too. If the
    block raises, the lines are printed after all.
    """
    lines: list[str] = []
    sys.stderr.flush()
    original = os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(original, STDERR)
            os.close(original)
            file.seek(0)
            text = file.read().decode(errors="replace")
            lines.extend(line for line in text.splitlines() if line.strip())
