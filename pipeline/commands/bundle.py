"""Make the folder to put on a device, and the same as .tar.gz.

It holds graphs, engines, labels, preprocessing, a manifest with every hash, and scripts that
classify and prove it there without Shoal (docs/bundle.md). Without a variant it is the engine that
the report recommends; of a variant, its planned level in `bundle.precision` of params.yaml.

examples:
  python -m pipeline bundle                                       what is recommended
  python -m pipeline bundle lacoot --level 5 --precision int8
  python -m pipeline bundle lacoot --into /mnt/usb
  cd artifacts/bundle/lacoot-l5-int8 && python verify.py          what to do with it there
"""

import argparse
import subprocess
import sys

from models.errors import ParamsError
from pipeline.commands import DONE, FAILED
from pipeline.comparison import read_summary
from pipeline.report import SUMMARY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to ship."""
    parser.add_argument("variant", nargs="?", help="a name under `variants` in params.yaml")
    parser.add_argument("--level", type=int, help="number of removed blocks (default: as planned)")
    parser.add_argument("--precision", help="of the graph (default: bundle.precision)")
    parser.add_argument("--into", help="folder (default: artifacts/bundle)")


def run(arguments: argparse.Namespace) -> int:
    """Hand over to the stage `bundle`, which says itself what went wrong."""
    output = subprocess.DEVNULL if arguments.quiet else None
    ended = subprocess.run(stage_command(arguments), stdout=output, check=False)
    return FAILED if ended.returncode else DONE


def stage_command(arguments: argparse.Namespace) -> list[str]:
    """Return the command line of the stage, with what is recommended where nothing is named.

    Raises:
        ParamsError: nothing is recommended, or a level is named without its variant.
    """
    chosen = dict(vars(arguments))
    if arguments.variant is None:
        chosen |= _recommended(arguments)
    options = [
        f"--{name}={chosen[name]}"
        for name in ("level", "precision", "into")
        if chosen[name] is not None
    ]
    return [sys.executable, "-m", "stages.bundle", chosen["variant"], *options]


def _recommended(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the recommended engine's variant, level and precision."""
    if arguments.level is not None or arguments.precision is not None:
        raise ParamsError("--level and --precision are of a variant: name it too")
    _, recommendation = read_summary()
    if recommendation["chosen"] is None:
        raise ParamsError(
            f"{SUMMARY} recommends nothing to ship ({recommendation['reason']}); name a variant"
        )
    return {key: recommendation["chosen"][key] for key in ("variant", "level", "precision")}
