"""A small project as `dvc repro` leaves it, and its runs in MLflow."""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from tiny_onnx import write_network

from pipeline.artifacts import write_json
from pipeline.choice import choose
from pipeline.params import Choose, Params, load_params
from pipeline.records import read_comparison, read_runs
from pipeline.runs import Comparison
from pipeline.tracking import TrackReport, mirror

# What SQLAlchemy and the type hints of MLflow's agents tell MLflow's authors, not us.
MLFLOWS_WARNINGS = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]
ROOT = Path(__file__).parents[1]
BLOCKS = ["layer1.0", "layer2.1"]
PLOTS = ["accuracy_latency.png", "distances.png"]
RUNG = {
    "rung": "precision",
    "precision": "fp32",
    "backend": None,
    "status": "passed",
    "max_abs": 1e-6,
    "max_rel": 1e-7,
    "cosine": 1.0,
    "top1_agreement": 1.0,
}
RUNGS = [RUNG, {**RUNG, "rung": "engine", "backend": "tensorrt_rtx", "status": "not run"}]
TIMED = {"p50": 0.75, "p50_ci": [0.7, 0.8], "images_per_s": 1300.0}
HEALING = {"seconds": 3.5, "images_seen": 100, "macs_spent": 10**9}
ENGINE = {"file": "fp32/onnxruntime/level_{}.onnx", "seconds": 0.5}
PLAN = {"file": "fp32/tensorrt_rtx/level_{}.engine", "seconds": 0.5}
BUILT = {"onnxruntime": ENGINE, "tensorrt_rtx": PLAN}
SETTINGS = {"lacoot": {"train": {"penalty": {"lambda": 5.0, "projections": 50}}}}
PIXEL = bytes.fromhex("89504e470d0a1a0a")


def summary_row(variant: str, level: int, p50: float) -> dict:
    return {
        "variant": variant,
        "level": level,
        "precision": "fp32",
        "removed": BLOCKS[:level],
        "removed_in_training": [],
        "replacement": "linear" if level else "identity",
        "val_accuracy_pct": 90.0 - level,
        "shipped": "healed" if level else "removed",
        "val_accuracy_removed_pct": 90.0 - level,
        "val_accuracy_bn_pct": 90.25,
        **({"val_accuracy_healed_pct": 90.75, "healing": HEALING} if level else {}),
        "test_accuracy_pct": 89.5 - level,
        "engine_accuracy_pct": {"onnxruntime": {"val": 90.0 - level, "test": 89.5 - level}},
        "params": 700_000 - level,
        "macs": 36_000_000 - level,
        "onnx_bytes": 2_800_000 - level,
        "engine_bytes": {"onnxruntime": 2_800_001 - level, "tensorrt_rtx": 2_900_000 - level},
        "latency_ms": {"onnxruntime": {"p50": p50 - level, "p90": p50 + 1, "p99": p50 + 2}},
        "chosen": level == 1,
    }


def graphs(level: int) -> dict:
    return {"fp32": {"file": f"fp32/level_{level}.onnx"}}


def engines(level: int) -> dict:
    return {name: {**built, "file": built["file"].format(level)} for name, built in BUILT.items()}


@lru_cache
def network() -> bytes:
    """The bytes of a small real ONNX graph."""
    with TemporaryDirectory() as folder:
        write_network(Path(folder, "network.onnx"))
        return Path(folder, "network.onnx").read_bytes()


def write_networks(variant: str) -> None:
    """Write the graphs and what stands for engines: bytes that differ by variant and level."""
    for level in range(3):
        files = {f"precision/{variant}/{graphs(level)['fp32']['file']}": network()}
        for name, engine in engines(level).items():
            files[f"build/{variant}/{engine['file']}"] = f"{name} {variant} {level}".encode()
        for name, content in files.items():
            path = Path("artifacts", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_variant(variant: str, p50: float = 20.0) -> None:
    """Write what the stages write for one variant, with the level-0 latency `p50`."""
    levels = [{"level": level, "removed": BLOCKS[:level]} for level in range(3)]
    lambda_ = 5.0 if variant == "lacoot" else 0.0
    epoch = {"epoch": 1, "loss": 0.5, "distances": dict.fromkeys(BLOCKS, 0.1)}
    content = {
        "train": {
            "model": {"name": "resnet18_cifar", "pretrained": False, "options": {"width": 16}},
            "train": {
                "seed": 0,
                "epochs": 1,
                "learning_rate": 0.1,
                "strategy": {"name": "penalty"},
                "precision": "auto",
                "penalty": {"lambda": lambda_, "estimator": "random", "projections": 50},
            },
            "method": {"mode": "paper", "unit": "auto"},
            "device": "cpu",
            "precision": "bfloat16",
            "seconds": 12.5,
            "images_per_s": 4000.0,
            "removed": [],
            "epochs": [epoch],
        },
        "score": {"samples": 16, "scores": {"msw": dict.fromkeys(BLOCKS, 0.1)}},
        "plan": {"search": "one_shot", "criterion": "msw", "levels": levels},
        "heal": {"chosen_level": 1, "levels": levels},
        "collapse": {"levels": [level | {"nodes": 50} for level in levels]},
        "precision": {"levels": [level | {"graphs": graphs(level["level"])} for level in levels]},
        "build": {
            "not_available": {"tensorrt": "not installed"},
            "levels": [level | {"engines": {"fp32": engines(level["level"])}} for level in levels],
        },
        "verify": {"levels": [level | {"rungs": RUNGS} for level in levels]},
        "benchmark": {
            "not_timed": {"tensorrt_rtx": "no CUDA device"},
            "levels": [
                level | {"latency_ms": {"fp32": {"onnxruntime": {"1": TIMED}}}} for level in levels
            ],
        },
    }
    write_networks(variant)
    for stage, values in content.items():
        write_json(Path("metrics", stage, f"{variant}.json"), {"variant": variant, **values})
    path = Path("reports/summary.json")
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in rows if row["variant"] != variant]
    rows += [summary_row(variant, level, p50) for level in range(3)]
    write_json(path, {"recommendation": choose(rows, Choose()).to_json(), "rows": rows})
    record_in_lock(f"benchmark@{variant}", p50)


def write_project() -> None:
    """Fill the current folder as `dvc repro` does with two variants of three levels."""
    manifest = {
        "source": "fashion_mnist",
        "classes": ["boot", "shirt"],
        "counts": {"train": {"boot": 5, "shirt": 6}, "test": {"boot": 1, "shirt": 1}},
        "sha256": {"train.npz": "ab" * 32},
    }
    write_json(Path("metrics/prepare.json"), manifest)
    record_in_lock("prepare", manifest)
    for variant in ("dense", "lacoot"):
        write_variant(variant)
    for plot in PLOTS:
        Path("reports", plot).write_bytes(PIXEL)
    write_params("dense", "lacoot")


def record_in_lock(stage: str, content: object) -> None:
    """Put an entry into dvc.lock that changes with `content`, as DVC does when a stage ends."""
    path = Path("dvc.lock")
    lock = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"][stage] = {"cmd": f"python -m stages.{stage}", "outs": [{"md5": repr(content)}]}
    path.write_text(yaml.safe_dump(lock))


def write_params(*variants: str) -> Params:
    """Write the project's own params.yaml with these variants."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["variants"] = {variant: SETTINGS.get(variant, {}) for variant in variants}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    return load_params()


def track() -> TrackReport:
    params = load_params()
    return mirror(params.name, read_runs(params))


def compared() -> Comparison:
    """Return what `present` is told of the project."""
    params = load_params()
    return read_comparison(params, read_runs(params))


def client():
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def runs_of(experiment: str) -> dict:
    """Return the runs by name, but for that of the report; a name that occurs twice fails."""
    found = client().get_experiment_by_name(experiment)
    runs = client().search_runs([found.experiment_id], "tags.variant != ''", max_results=1000)
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def run_of_the_report():
    """The run that carries the report for all others; one and no more."""
    found = client().get_experiment_by_name("shoal")
    (run,) = client().search_runs([found.experiment_id], "tags.`shoal.report` != ''")
    return run


def start_stage(name: str, *arguments: str, **env: str) -> subprocess.Popen:
    """Start ``python -m stages.<name>`` in the current folder, on the default store."""
    inherited = {key: os.environ[key] for key in os.environ if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}", *arguments],
        env=inherited | {"PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_stage(name: str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a stage."""
    process = start_stage(name, *arguments, **env)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors
