"""Lay presets of params/ over params.yaml: a data set and an architecture, say.

A later preset is laid over an earlier one; comments and order of params.yaml stay, and nothing is
written unless the result is valid.

examples:
  python -m pipeline preset cifar10 resnet18 --data /data/cifar-10-batches-py
  python -m pipeline preset swin_tiny                    another network, the same images
"""

from collections.abc import Sequence

import click

from pipeline.cli.presets import apply_presets
from pipeline.core.params import PARAMS


@click.command(help=__doc__)
@click.argument("presets", nargs=-1, required=True, metavar="NAME…")
@click.option("--data", metavar="FOLDER", help="The folder of the images, as prepare.path.")
def command(presets: Sequence[str], data: str | None) -> None:
    """Write params.yaml and print what to know about it."""
    notes = apply_presets(presets, data=data)
    print(f"{PARAMS}: laid over it {', '.join(presets)}")
    for note in notes:
        print(f"note: {note}")
