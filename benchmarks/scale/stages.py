"""How long the report, `compare`, `choose` and `track` take with many variants, each on its own.

python -m benchmarks.scale.stages                            100 variants of 10 levels, 4 precisions
python -m benchmarks.scale.stages --variants 10 --into ten   kept, for benchmarks.scale.mlflow_page

The metrics are those of the committed variant `lacoot`, multiplied: levels are repeated, accuracies
and latencies drawn around what was measured. They are well-formed and mean nothing.
"""

import argparse
import copy
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEMPLATE = "lacoot"
STAGES = ("train", "score", "plan", "heal", "collapse", "precision", "build", "verify", "benchmark")
COMMANDS = {
    "stages.report": ["stages.report"],
    "compare": ["pipeline", "compare"],
    "compare --csv": ["pipeline", "compare", "--csv"],
    "choose": ["pipeline", "choose", "--latency-ms", "4"],
    "stages.track": ["stages.track"],  # warns: there is no engine to register
    "stages.track, again": ["stages.track"],
}


def main() -> None:
    """Write the folder, run every command in it, print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", type=int, default=100)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--into", type=Path, help="folder (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.into or Path(temporary)
        write_project(folder, options.variants, options.levels)
        for name, command in COMMANDS.items():
            wall_s, cpu_s = seconds(command, folder)
            print(f"{name}: {wall_s:.1f} s, {cpu_s:.1f} s of CPU", flush=True)
        for path in sorted((folder / "reports").iterdir()):
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Return wall and CPU time of ``python -m`` with these words, run in `folder`."""
    before, start = _children_cpu_s(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start, _children_cpu_s() - before


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_project(folder: Path, variants: int, levels: int, seed: int = 0) -> None:
    """Write params.yaml and the metrics of so many variants, as the stages would leave them."""
    names = ["dense", *(f"lacoot_{number:03}" for number in range(1, variants))]
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["variants"] = {name: {} for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "metrics").mkdir(exist_ok=True)
    shutil.copy(ROOT / "metrics" / "prepare.json", folder / "metrics")
    shutil.copy(ROOT / "dvc.lock", folder)
    template = {stage: _read(stage) for stage in STAGES}
    rng = random.Random(seed)
    run: dict[str, Any] = {}
    for name in names:
        found = variant_metrics(template, name, levels, rng)
        own = found.pop("benchmark")
        run = run or {key: [] if isinstance(value, list) else value for key, value in own.items()}
        for key, value in own.items():
            if isinstance(value, list):
                run[key] += value
        for stage, metrics in found.items():
            _write(folder / "metrics" / stage / f"{name}.json", metrics)
    _write(folder / "metrics" / "benchmark.json", run)


def _write(path: Path, metrics: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(metrics), encoding="utf-8")


def _read(stage: str) -> Any:
    """Return the metrics of `TEMPLATE`; of the one run over all variants, its own records."""
    if stage != "benchmark":
        return json.loads((ROOT / "metrics" / stage / f"{TEMPLATE}.json").read_text("utf-8"))
    run = json.loads((ROOT / "metrics" / "benchmark.json").read_text("utf-8"))
    return {key: _own(value) if isinstance(value, list) else value for key, value in run.items()}


def _own(records: list[Any]) -> list[Any]:
    return [one for one in records if isinstance(one, dict) and one.get("variant") == TEMPLATE]


def variant_metrics(
    template: Mapping[str, Any], variant: str, levels: int, rng: random.Random
) -> dict[str, Any]:
    """Return the metrics of a variant by stage: those of `template` with other numbers."""
    loss, slower = rng.uniform(-1.0, 3.0), rng.uniform(0.8, 1.5)
    deepest = max(level["level"] for level in template["heal"]["levels"])
    found = {
        stage: {key: _stretched(key, value, variant, levels, deepest) for key, value in own.items()}
        | {"variant": variant}
        for stage, own in template.items()
    }
    found["heal"]["chosen_level"] = rng.randrange(levels)
    for check in found["verify"]["checks"]:
        for key in ("val_accuracy_pct", "test_accuracy_pct"):
            if check[key] is not None:
                check[key] -= loss + 0.3 * check["level"] + rng.uniform(0.0, 0.2)
    for latency in found["benchmark"]["latencies"]:
        for key in ("quiet_ms", "p50_ms", "p90_ms", "p99_ms"):
            latency[key] *= slower * (1 - 0.05 * latency["level"]) * rng.uniform(0.97, 1.03)
    return found


def _stretched(key: str, value: Any, variant: str, levels: int, deepest: int) -> Any:
    """Return a list of records with so many levels; beyond the deepest, blocks are made up."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return copy.deepcopy(value)
    if key == "epochs" or "level" not in value[0]:
        return copy.deepcopy(value)
    return [
        _at_level(record, number, variant, deepest)
        for number in range(levels)
        for record in value
        if record["level"] == min(number, deepest)
    ]


def _at_level(record: dict[str, Any], number: int, variant: str, deepest: int) -> dict[str, Any]:
    made_up = [f"layer9.{extra}" for extra in range(number - deepest)]
    changed = copy.deepcopy(record) | {"level": number}
    if "removed" in record:
        changed["removed"] = [*record["removed"], *made_up]
    return changed | ({"variant": variant} if "variant" in record else {})


if __name__ == "__main__":
    main()
