"""One thin script per DVC stage, run as ``python -m stages.<name> [variant]``."""

import argparse
import errno
import sys
from collections.abc import Callable

from models.errors import ShoalError


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
        main()
    except ShoalError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: the disk is full (writing {e.filename or 'an output'}); free some space")
