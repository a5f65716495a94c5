"""Lay presets of params/ over params.yaml: a data set and an architecture, say.

python -m stages.preset cifar10 resnet18 --data /data/cifar-10-batches-py
"""

import argparse

from pipeline.params import PARAMS
from pipeline.presets import apply_presets
from stages import run_stage


def main() -> None:
    """Write params.yaml and print what to know about it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="+", help="names of files in params/, without .yaml")
    parser.add_argument("--data", help="the folder of the images, as prepare.path")
    arguments = parser.parse_args()
    notes = apply_presets(arguments.presets, data=arguments.data)
    print(f"{PARAMS}: laid over it {', '.join(arguments.presets)}")
    for note in notes:
        print(f"note: {note}")


if __name__ == "__main__":
    run_stage(main)
