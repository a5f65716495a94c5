"""A DVC project whose stages are a few lines: what is real is DVC, and whatever runs it.

A stage of a variant adds a line to runs.txt. Training fails where the learning rate is 5 or more,
and waits as long as a file `hold` is there; `prepare`, a file `hold-prepare`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from places import FIXED, ROOT

STAGES = """\
stages:
  report:
    cmd: python toy.py report
    params: [variants]
    deps: [metrics/benchmark.json, metrics/failed.json]
    outs: [reports/summary.txt: {cache: false}]
  benchmark:
    cmd: python toy.py benchmark
    params: [variants]
    deps: [metrics/verify, metrics/failed.json]
    metrics: [metrics/benchmark.json: {cache: false}]
  verify:
    foreach: ${variants}
    do:
      cmd: python toy.py verify ${key}
      deps: [artifacts/prepare, 'metrics/train/${key}.json']
      metrics: ['metrics/verify/${key}.json': {cache: false}]
  train:
    foreach: ${variants}
    do:
      cmd: python toy.py train ${key}
      params: [train, 'variants.${key}']
      deps: [artifacts/prepare]
      metrics: ['metrics/train/${key}.json': {cache: false}]
  prepare:
    cmd: python toy.py prepare
    outs: [artifacts/prepare]
"""

PROGRAM = """\
import os, sys, time, yaml
from pathlib import Path

stage, *variant = sys.argv[1:]
name = variant[0] if variant else ""
with Path("runs.txt").open("a") as runs:
    runs.write(f"{stage} {name} {os.environ.get('OMP_NUM_THREADS')}".strip() + "\\n")
while stage == "prepare" and Path("hold-prepare").exists():
    time.sleep(0.02)
if stage == "train":
    while Path("hold").exists():
        time.sleep(0.02)
    params = yaml.safe_load(Path("params.yaml").read_text())
    own = (params["variants"][name] or {}).get("train", {})
    if own.get("learning_rate", 0) >= 5:
        sys.exit("error: the loss is nan in epoch 1")
out = {
    "prepare": "artifacts/prepare",
    "report": "reports/summary.txt",
    "benchmark": "metrics/benchmark.json",
}.get(stage, f"metrics/{stage}/{name}.json")
Path(out).parent.mkdir(parents=True, exist_ok=True)
Path(out).write_text(f'"{stage} {name}"')
"""


def write_toy_project(root: Path, *variants: str) -> None:
    """Write the project with variants that override nothing."""
    shutil.copy(FIXED, root / "params.yaml")
    edit_variants(root, lambda there: [there.clear(), there.update({v: {} for v in variants})])
    (root / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (root / "toy.py").write_text(PROGRAM, encoding="utf-8")
    (root / "metrics").mkdir()
    (root / "metrics" / "failed.json").write_text("{}\n", encoding="utf-8")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, env=environment(), check=True)


def edit_variants(root: Path, change) -> None:
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(params["variants"])
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return kept | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"} | more


def sweep_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "sweep", *arguments]


def run_sweep(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        sweep_command(*arguments),
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def taken_runs(root: Path) -> list[str]:
    """Return what has run since the last call, e.g. ``train dense 1``, sorted."""
    path = root / "runs.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(lines)
