"""One thin script per DVC stage, run as ``python -m stages.<name> [variant]``."""

import argparse
import errno
import sys
from collections.abc import Callable

from models.errors import ShoalError
from models.memory import enough_memory

# What the file system may answer through no fault of the stage, and what helps.
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


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage that covers all variants; a `ShoalError` becomes one line and exit code 1."""
    _guarded(main)


def run_variant_stage(main: Callable[[str], None]) -> None:
    """Run a stage for the variant named on the command line."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("variant", help="a name under `variants` in params.yaml")
    arguments = parser.parse_args()
    _guarded(lambda: main(arguments.variant))


def _guarded(main: Callable[[], None]) -> None:
    try:
        with enough_memory(f"lower what is held at once: {', '.join(HELD_AT_ONCE)}"):
            main()
    except ShoalError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno not in UNUSABLE:
            raise
        sys.exit(f"error: {UNUSABLE[e.errno].format(e.filename or 'an output')}")
