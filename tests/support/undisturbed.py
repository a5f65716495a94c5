"""A little project, the stages of dvc.yaml, and what an undisturbed run of each leaves behind."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from PIL import Image
from places import FIXED, ROOT
from stage_server import Outcome, StageServer

from pipeline.core.artifacts import write_json

FULL = os.environ.get("SHOAL_FAULTS") == "full"  # every fault is tried, not some of each kind
VARIANT = "little"
TIMINGS = {"seconds", "images_per_s"}
CODE = ("models", "pipeline", "stages", "requirements.lock")


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its name, its arguments, what it reads and what it writes."""

    name: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _stages() -> dict[str, Stage]:
    defined = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: _stage(stage.get("do", stage)) for name, stage in defined.items()}


def _stage(defined: dict[str, Any]) -> Stage:
    _, _, module, *arguments = _filled(defined["cmd"]).split()
    outputs = [*defined.get("outs", []), *defined.get("metrics", []), *defined.get("plots", [])]
    return Stage(
        module.removeprefix("stages."),
        tuple(arguments),
        tuple(_filled(path) for path in defined.get("deps", []) if not path.startswith(CODE)),
        tuple(_filled(next(iter(out)) if isinstance(out, dict) else out) for out in outputs),
    )


def _filled(text: str) -> str:
    return text.replace("${key}", VARIANT)


STAGES = _stages()


def write_little_project(root: Path) -> None:
    """Three classes of 24 images; a network with one removable block left, trained and healed."""
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    params["prepare"] |= {
        "source": "image_folder",
        "path": "images",
        "image_size": 16,
        "limit": None,
    }
    params["model"]["options"] = {"width": 8}  # with 4, torch corrupts its memory on some CPUs
    params["train"] |= {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "precision": "fp32"}
    shallow = {"strategy": {"name": "shallow", "remove": 4}}
    params["variants"] = {VARIANT: {"train": shallow}}
    params["score"] |= {"samples": 32, "recovery_images": 32, "projections": 8}
    params["plan"] |= {"replacement": "linear", "replacement_samples": 32}
    params["heal"] |= {"ship": "healed", "epochs": 1, "bn_samples": 16}
    params["precision"] |= {"precisions": ["fp32", "int8"], "samples": 16}
    params["build"]["backends"] = ["onnxruntime"]
    params["benchmark"] |= {
        "batch_sizes": [1],
        "rounds": 2,
        "repeats": 1,
        "warmup": {"window": 1, "within_pct": 50.0, "max_calls": 3},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    write_json(root / "metrics" / "failed.json", {})
    rng = np.random.default_rng(0)
    for label, name in enumerate(("boot", "coat", "shirt")):
        folder = root / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(0, 80, (16, 16), dtype=np.uint8)
            pixels[4 * label : 4 * label + 6] += 150
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    # So that what a bundle says of its source is the same wherever a copy lies.
    subprocess.run(["git", "init", "--quiet", "--template=", str(root)], check=True)


@dataclass(frozen=True)
class Undisturbed:
    """A project after every stage has run once, and how long each took."""

    root: Path
    store: Path  # of MLflow, before it held a run
    seconds: dict[str, float]

    def copy(self, target: Path, stage: str) -> Path:
        """Copy the project as it is just before a stage runs: DVC has removed its outputs."""
        shutil.copytree(self.root, target, symlinks=True, dirs_exist_ok=True)
        for output in STAGES[stage].outputs:
            remove(target / output)
        if stage == "build":
            remove(target / ".cache/engines")  # else they come out of the cache
        if stage in {"track", "train"}:  # a store knows the folder that it was made in
            shutil.copy(self.store, target / "mlflow.db")
        return target


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def undisturbed(root: Path, store: Path, server: StageServer) -> Undisturbed:
    """Make the project at `root` where it is not yet made; processes that test at once share it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = root.with_suffix(".json")
        if not record.exists():
            root.mkdir()
            write_little_project(root)
            shutil.copy(store, root / "mlflow.db")
            record.write_text(json.dumps(_run_all(root, server)), encoding="utf-8")
        return Undisturbed(root, store, json.loads(record.read_text(encoding="utf-8")))


def _run_all(root: Path, server: StageServer) -> dict[str, float]:
    seconds: dict[str, float] = {}
    _record_in_lock(root)
    while waiting := [name for name in STAGES if name not in seconds]:
        name = next(n for n in waiting if all((root / i).exists() for i in STAGES[n].inputs))
        started = time.monotonic()
        ended = server.run(root, STAGES[name].name, *STAGES[name].arguments)
        assert ended.code == 0, f"{name}: {ended.errors}"
        seconds[name] = time.monotonic() - started
    return seconds


def _record_in_lock(root: Path) -> None:
    """Write what of dvc.lock the keys of MLflow's runs are made of."""
    stages = {
        name if not STAGES[name].arguments else f"{name}@{VARIANT}": {
            "cmd": f"python -m stages.{name}",
            "outs": [{"path": out, "md5": "0" * 32} for out in STAGES[name].outputs],
        }
        for name in STAGES
    }
    lock = {"schema": "2.0", "stages": stages}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")


def contents(root: Path, stage: str) -> dict[str, Any]:
    """Return what a stage has left, file by file: hashes, but of JSON the values without times.

    What has a temporary name is no result (`leftovers` lists it).
    """
    found: dict[str, Any] = {}
    for output in STAGES[stage].outputs:
        path = root / output
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            name = file.relative_to(root)
            if file.is_file() and not any(part.endswith(".tmp") for part in name.parts):
                found[name.as_posix()] = _content(file, stage)
    return found


def _content(file: Path, stage: str) -> Any:
    data = file.read_bytes()
    if file.suffix == ".json":
        value = _without_times(json.loads(data))
        return _timed(value) if stage == "benchmark" else value
    if stage == "build" and file.suffix == ".onnx":
        return _without_node_names(data)
    if file.suffix == ".log":
        data = re.sub(rb'"seconds": [\d.]+', b"", data)
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMINGS}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _without_node_names(data: bytes) -> str:
    """Return the hash of a graph without what ONNX Runtime numbers differently each time."""
    model = onnx.ModelProto.FromString(data)
    for node in model.graph.node:
        node.name = ""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _timed(metrics: dict[str, Any]) -> Any:
    """Return what was timed, and not how long that took: no two times are equal."""
    keys = ("level", "precision", "backend", "batch")
    return [tuple(latency[key] for key in keys) for latency in metrics["latencies"]]


def tracked(root: Path) -> list[tuple[str, str]]:
    """Return name and status of the runs in the store, without those in the trash."""
    with closing(sqlite3.connect(root / "mlflow.db")) as store:
        query = "select name, status from runs where lifecycle_stage = 'active' order by name"
        return store.execute(query).fetchall()


def leftovers(root: Path) -> list[str]:
    """Return temporary files that lie where results belong."""
    places = (root / "artifacts", root / "metrics", root / "reports")
    return [str(path) for place in places for path in place.rglob(".*.tmp")]


def require_the_same(project: Path, base: Undisturbed, stage: str, server: StageServer) -> None:
    """Run a stage after its fault; it must end as if nothing had been."""
    ended = server.run(project, STAGES[stage].name, *STAGES[stage].arguments)
    assert (ended.code, ended.errors) == (0, "")
    assert contents(project, stage) == contents(base.root, stage)
    assert leftovers(project) == []
    if stage == "track":
        assert tracked(project) == [run for run in tracked(base.root) if run[0] != VARIANT]


def require_nothing_half(project: Path, base: Undisturbed, stage: str) -> None:
    whole, left = contents(base.root, stage), contents(project, stage)
    assert left == {name: whole[name] for name in left}


def require_one_message(ended: Outcome, stage: str, reason: str) -> None:
    """A stage fails with one line; tracking, without which all goes on, is a warning."""
    *warnings, last = ended.errors.splitlines()
    assert "Traceback" not in ended.errors
    assert [line.partition(":")[0] for line in warnings] in ([], ["warning"])
    if stage == "track":
        assert ended.code == 0
        assert last.startswith("warning: not tracked")
    else:
        assert ended.code == 1
        assert last.startswith("error: ")
        assert reason in last
