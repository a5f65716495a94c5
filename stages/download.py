"""Bring a registered model from MLflow: its graph, its engines, and the hashes that prove them.

``python -m stages.download [alias] [--into folder]``
"""

import argparse
from pathlib import Path

from pipeline.params import load_params
from pipeline.registry import CHAMPION, download
from stages import run_stage


def main() -> None:
    """Download the version of an alias into a folder, which it replaces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("alias", nargs="?", default=CHAMPION, help="of the version; %(default)s")
    parser.add_argument(
        "--into", type=Path, default=Path("artifacts/download"), help="folder; %(default)s"
    )
    arguments = parser.parse_args()
    print(download(load_params().name, arguments.into, arguments.alias))


if __name__ == "__main__":
    run_stage(main)
