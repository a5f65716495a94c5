"""A sweep of 12 variants of which one fails, then once more, then with the mistake mended.

python -m benchmarks.scale.sweep [--jobs 2] [--into FOLDER]

In a copy of the project with small settings. What each of the three runs took, what ran in it and
what failed goes to benchmarks/results/sweep.jsonl. Its claim: the 11 others complete, the report
names the failure, and each later run runs that one variant alone.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.artifacts import read_json
from pipeline.data.published.fashion_mnist import DOWNLOADS, fetch

RESULTS = Path("benchmarks/results/sweep.jsonl")
GRID = ("lambda=0.5,1,2,3,5", "seed=1,2")  # beside these two:
BY_HAND = {"dense": {}, "hot": {"train": {"learning_rate": 1e6}}}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "train": {"epochs": 2},
    "precision": {"precisions": ["fp32"]},
    "build": {"backends": ["onnxruntime"]},
}


def main() -> None:
    """Make the project, sweep three times, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--into", type=Path, help="an empty folder (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.into or temporary).resolve()
        _copy_project(root)
        rows = [
            _sweep(root, "first", options.jobs, *GRID),
            _sweep(root, "again", options.jobs, *GRID),
        ]
        _edit(root, lambda params: params["variants"]["hot"]["train"].update(learning_rate=0.05))
        rows.append(_sweep(root, "mended", options.jobs))
    RESULTS.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


def _copy_project(root: Path) -> None:
    """Copy what git knows of this project, without results, and set small parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        result = name.startswith(("metrics/", "reports/")) or name == "dvc.lock"
        if Path(name).exists() and (not result or name == "metrics/failed.json"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    shutil.copy("tests/support/params.yaml", root / "params.yaml")
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    fetch(DOWNLOADS)

    def small(params: dict[str, Any]) -> None:
        params["prepare"]["path"] = str(DOWNLOADS.resolve())
        params["variants"] = BY_HAND
        for section, values in SMALL.items():
            params[section] |= values

    _edit(root, small)


def _edit(root: Path, change: Any) -> None:
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _sweep(root: Path, step: str, jobs: int, *grid: str) -> dict[str, Any]:
    """Run one sweep and return its facts; its output is shown as it comes."""
    logs = root / ".cache" / "sweep"
    shutil.rmtree(logs, ignore_errors=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "pipeline", "sweep", *grid, "-j", str(jobs)]
    code = subprocess.run(command, cwd=root, env=os.environ, check=False).returncode
    seconds = time.monotonic() - started
    said = "\n".join(log.read_text(encoding="utf-8") for log in logs.glob("*.log"))
    ran = re.findall(r"^Running stage '([\w-]+)@([\w-]+)'", said, flags=re.MULTILINE)
    summary = read_json(root / "reports" / "summary.json")
    return {
        "step": step,
        "jobs": jobs,
        "seconds": round(seconds),
        "exit_code": code,
        "variants_run": sorted({variant for _, variant in ran}),
        "stages_run": len(ran),
        "variants_in_report": len({row["variant"] for row in summary["networks"]}),
        "failures_in_report": summary["failures"],
    }


if __name__ == "__main__":
    main()
