"""Download a registered model from MLflow: its graph, its engines, and the hashes that prove them.

examples:
  python -m pipeline download                            the champion
  python -m pipeline download ALIAS --into /srv/model    the version that has an alias
"""

from pathlib import Path

import click

from pipeline.core.params import load_params

FOLDER = Path("artifacts/download")


@click.command(help=__doc__)
@click.argument("alias", required=False)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=FOLDER,
    metavar="FOLDER",
    help=f"Replaced if it is there (default: {FOLDER}).",
)
def command(alias: str | None, into: Path) -> None:
    """Download the version of an alias, and print where it is."""
    from pipeline.report.tracking.registry import CHAMPION, download

    print(download(load_params().name, into, alias or CHAMPION))
