"""How long the report, `compare`, `choose` and `track` take with many variants, each on its own.

python -m benchmarks.scale                              100 variants of 10 levels in 4 precisions
python -m benchmarks.scale --variants 10 --into ten   kept, to look at (benchmarks.scale_page does)

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
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
    for name in names:
        for stage, metrics in variant_metrics(template, name, levels, rng).items():
            path = folder / "metrics" / stage / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(metrics), encoding="utf-8")


def _read(stage: str) -> Any:
    path = ROOT / "metrics" / stage / f"{TEMPLATE}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def variant_metrics(
    template: Mapping[str, Any], variant: str, levels: int, rng: random.Random
) -> dict[str, Any]:
    """Return the metrics of a variant by stage: those of `template` with other numbers."""
    loss, slower = rng.uniform(-1.0, 3.0), rng.uniform(0.8, 1.5)
    found = {
        stage: copy.deepcopy(metrics) | {"variant": variant} for stage, metrics in template.items()
    }
    for stage, metrics in found.items():
        if stage not in ("train", "score"):
            metrics["levels"] = [_level(metrics["levels"], number) for number in range(levels)]
    found["heal"]["chosen_level"] = rng.randrange(levels)
    for number, level in enumerate(found["verify"]["levels"]):
        for rung in level["rungs"]:
            for key in ("val_accuracy_pct", "test_accuracy_pct"):
                if rung.get(key) is not None:
                    rung[key] -= loss + 0.3 * number + rng.uniform(0.0, 0.2)
    for number, level in enumerate(found["benchmark"]["levels"]):
        for latency in _latencies(level["latency_ms"]):
            for key in ("p50", "p90", "p99"):
                latency[key] *= slower * (1 - 0.05 * number) * rng.uniform(0.97, 1.03)
    return found


def _level(levels: list[Any], number: int) -> Any:
    """Return a level with so many blocks out; beyond the deepest one made-up blocks go."""
    deepest = len(levels) - 1
    level = copy.deepcopy(levels[min(number, deepest)])
    made_up = [f"layer9.{extra}" for extra in range(number - deepest)]
    return level | {"level": number, "removed": [*level["removed"], *made_up]}


def _latencies(by_precision: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    for by_backend in by_precision.values():
        for by_batch in by_backend.values():
            yield from by_batch.values()


if __name__ == "__main__":
    main()
