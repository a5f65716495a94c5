"""Errors that a user can mend are one line on standard error and exit code 1, not a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import ShoalError
from models.memory import enough_memory

# What the file system may answer through no fault of the code, and what helps.
UNUSABLE = {
    errno.ENOSPC: "the disk is full (writing {}); free some space",
    errno.EDQUOT: "the disk quota is used up (writing {}); free some space",
    errno.EFBIG: "{} would be larger than a file may be here; raise the limit (ulimit -f)",
    errno.EROFS: "{} is on a read-only file system; make it writable, or move the project",
    errno.EACCES: "{} may not be read or written by this user; change its permissions",
    errno.EPERM: "{} may not be changed, even by this user; remove its protection (lsattr)",
    errno.EIO: "the disk fails at {}; check the disk",
}

HELD_AT_ONCE = (
    *("train.batch_size", "score.samples", "plan.replacement_samples", "precision.samples"),
    *("verify.samples", "benchmark.batch_sizes", "prepare.image_size"),
)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line where what is inside ends by an error that can be mended.

    Those are a `ShoalError`, a shortage of memory, and what the file system refuses.
    """
    try:
        with enough_memory(f"lower what is held at once: {', '.join(HELD_AT_ONCE)}"):
            yield
    except ShoalError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno not in UNUSABLE:
            raise
        sys.exit(f"error: {UNUSABLE[e.errno].format(e.filename or 'an output')}")
