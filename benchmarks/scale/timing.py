"""How long the stage `benchmark` takes with many variants, all timed in one run.

python -m benchmarks.scale.timing 3 100       after `dvc repro`: it needs the engines

The variants are the committed `lacoot` under other names, with accuracies drawn around its own: the
engines are real, what they promise is not.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.scale.stages import ROOT, TEMPLATE, seconds, write_project

LEVELS = 6  # that `lacoot` has
LINKED = ("build", "precision")


def main() -> None:
    """Time the stage for each number of variants, and print what was timed how."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("variants", type=int, nargs="+")
    for count in parser.parse_args().variants:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_project(folder, count, LEVELS)
            link_artifacts(folder)
            wall_s, _ = seconds(["stages.benchmark"], folder)
            run = json.loads((folder / "metrics" / "benchmark.json").read_text("utf-8"))
            full, short = len(run["engines"]), len(run["ratios"])
            print(f"{count} variants: {wall_s:.0f} s, {full} engines in full, {short} in short")


def link_artifacts(folder: Path) -> None:
    """Let every variant have the engines of the template, and the project its images."""
    artifacts = folder / "artifacts"
    for stage in LINKED:
        (artifacts / stage).mkdir(parents=True)
        for metrics in (folder / "metrics" / stage).glob("*.json"):
            (artifacts / stage / metrics.stem).symlink_to(ROOT / "artifacts" / stage / TEMPLATE)
    for stage in ("prepare", "probe"):
        (artifacts / stage).symlink_to(ROOT / "artifacts" / stage)


if __name__ == "__main__":
    main()
