"""How a stage's script starts: ``python -m stages.<name> [variant]``."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.core.exits import ProcessFrame, one_line_errors
from pipeline.core.stage_inputs import unchanged_inputs


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage that covers all variants; a `ShoalError` becomes one line and exit code 1."""
    with _stage(main, None):
        main()


def run_variant_stage(main: Callable[[str], None]) -> None:
    """Run a stage for the variant named on the command line."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("variant", help="a name under `variants` in params.yaml")
    arguments = parser.parse_args()
    with _stage(main, arguments.variant):
        main(arguments.variant)


@contextmanager
def _stage(main: Callable[..., None], variant: str | None) -> Iterator[None]:
    spec = main.__globals__.get("__spec__")  # of the script, whose name is __main__
    name = spec.name.removeprefix("stages.") if spec else ""
    with ProcessFrame(), one_line_errors(), unchanged_inputs(name, variant):
        yield
