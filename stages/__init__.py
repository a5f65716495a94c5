"""One thin script per DVC stage, run as ``python -m stages.<name> [variant]``."""

import argparse
import sys
from collections.abc import Callable

from pipeline.guard import one_line_errors


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage that covers all variants; a `ShoalError` becomes one line and exit code 1."""
    with one_line_errors():
        main()


def run_variant_stage(main: Callable[[str], None]) -> None:
    """Run a stage for the variant named on the command line."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("variant", help="a name under `variants` in params.yaml")
    arguments = parser.parse_args()
    with one_line_errors():
        main(arguments.variant)
