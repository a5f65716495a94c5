"""Make the folder to put on a device, and the same as .tar.gz.

It holds graphs, engines, labels, preprocessing, a manifest with every hash, and scripts that
classify and prove it there without Shoal (docs/bundle.md). Without a variant it is the engine that
the report recommends; of a variant, its planned level in `bundle.precision` of params.yaml.

examples:
  python -m pipeline bundle                                       what is recommended
  python -m pipeline bundle lacoot --level 5 --precision int8
  python -m pipeline bundle lacoot --into /mnt/usb
  python -m pipeline bundle lacoot --sign ~/.ssh/id_ed25519       as docs/bundle.md explains
  cd artifacts/bundle/lacoot-l5-int8 && python verify.py          what to do with it there
"""

import subprocess
import sys

import click

from models.errors import ParamsError
from pipeline.cli.exit_codes import DONE, FAILED
from pipeline.core.progress import is_quiet
from pipeline.report.comparison import read_summary
from pipeline.report.records import SUMMARY


@click.command(help=__doc__)
@click.argument("variant", required=False)
@click.option("--level", type=int, help="Number of removed blocks (default: as planned).")
@click.option("--precision", help="Of the graph (default: bundle.precision).")
@click.option("--into", metavar="FOLDER", help="Default: artifacts/bundle.")
@click.option("--sign", metavar="KEY", help="Sign it with this key of OpenSSH.")
def command(
    variant: str | None,
    level: int | None,
    precision: str | None,
    into: str | None,
    sign: str | None,
) -> int:
    """Run the stage `bundle`, which prints itself what went wrong."""
    stage = stage_command(variant, level, precision, into, sign)
    output = subprocess.DEVNULL if is_quiet() else None
    return FAILED if subprocess.run(stage, stdout=output, check=False).returncode else DONE


def stage_command(
    variant: str | None,
    level: int | None,
    precision: str | None,
    into: str | None,
    sign: str | None = None,
) -> list[str]:
    """Return the command line of the stage, with what is recommended where nothing is named.

    Raises:
        ParamsError: nothing is recommended, or a level is named without its variant.
    """
    if variant is None:
        if level is not None or precision is not None:
            raise ParamsError("--level and --precision are of a variant: name it too")
        variant, level, precision = _recommended()
    options = {"level": level, "precision": precision, "into": into, "sign": sign}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "stages.bundle", variant, *given]


def _recommended() -> tuple[str, int, str]:
    """Return the recommended engine's variant, level and precision."""
    recommendation = read_summary().recommendation
    chosen = recommendation.chosen
    if chosen is None:
        raise ParamsError(
            f"{SUMMARY} recommends nothing to ship ({recommendation.reason}); name a variant"
        )
    return chosen.variant, chosen.level, chosen.precision
