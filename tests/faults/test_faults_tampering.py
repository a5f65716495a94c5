"""Files damaged between stages: told or made again, and never a result of what was damaged."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from stage_server import StageServer
from undisturbed import FULL, STAGES, VARIANT, Undisturbed, contents, require_one_message

from models.errors import ArtifactError
from models.hashing import file_sha256
from models.weights.saving import load_state, load_tensors, save_state, save_tensors

INT8 = ("int8", None, "precision")
FLIPS = 200 if FULL else 40


def flip(path: Path) -> None:
    """Turn over one bit, in the second half, where values lie and not names."""
    data, rng = bytearray(path.read_bytes()), random.Random(path.name)
    half = len(data) // 2
    data[rng.randrange(half, max(half + 1, len(data) - 100))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


DAMAGES = [flip, truncate, empty, fill] if FULL else [flip, truncate]
READ = [
    ("artifacts/prepare/train_images.npy", "train"),
    ("artifacts/prepare/train_images.npy", "precision"),
    ("artifacts/prepare/validation_labels.npy", "plan"),
    ("artifacts/prepare/validation_images.npy", "collapse"),
    ("artifacts/prepare/test_labels.npy", "verify"),
    ("artifacts/prepare/test_images.npy", "bundle"),
    (f"artifacts/train/{VARIANT}/weights.safetensors", "score"),
    (f"artifacts/train/{VARIANT}/weights.safetensors", "export"),
    (f"artifacts/plan/{VARIANT}/level_1.safetensors", "heal"),
    (f"artifacts/heal/{VARIANT}/level_1.safetensors", "collapse"),
    (f"artifacts/collapse/{VARIANT}/level_1.onnx", "precision"),
    (f"artifacts/collapse/{VARIANT}/level_1.onnx", "verify"),
    (f"artifacts/precision/{VARIANT}/fp32/level_CHOSEN.onnx", "bundle"),
]


@pytest.mark.fault("file damaged between two stages")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("file", "stage"), READ)
def test_a_damaged_file_stops_the_stage_that_reads_it(
    file: str,
    stage: str,
    damage: Callable[[Path], None],
    base: Undisturbed,
    server: StageServer,
    tmp_path: Path,
) -> None:
    project = base.copy(tmp_path / "project", stage)
    healed = json.loads((base.root / f"metrics/heal/{VARIANT}.json").read_text(encoding="utf-8"))
    path = project / file.replace("CHOSEN", str(healed["chosen_level"]))
    damage(path)
    ended = server.run(project, STAGES[stage].name, *STAGES[stage].arguments)
    require_one_message(ended, stage, path.name)
    assert contents(project, stage) == {}


def key_of(record: dict) -> tuple[int, str, str | None]:
    return record["level"], record["precision"], record["backend"]


@pytest.mark.fault("file damaged between two stages")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_is_not_timed(
    damage: Callable[[Path], None], base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "benchmark")
    damage(project / f"artifacts/build/{VARIANT}/fp32/onnxruntime/level_1.onnx")
    ended = server.run(project, "benchmark")
    assert (ended.code, ended.errors) == (0, "")
    metrics = json.loads((project / "metrics/benchmark.json").read_text("utf-8"))
    damaged = (1, "fp32", "onnxruntime")
    assert damaged not in [key_of(latency) for latency in metrics["latencies"]]
    [skipped] = [skipped for skipped in metrics["skipped"] if key_of(skipped) == damaged]
    assert "has changed since" in skipped["reason"]


@pytest.mark.fault("file damaged between two stages")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_graph_is_not_proven(
    damage: Callable[[Path], None], base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "build")
    damaged = project / f"artifacts/precision/{VARIANT}/int8/level_1.onnx"
    damage(damaged)
    for stage in ("build", "verify", "bundle"):
        ended = server.run(project, stage, VARIANT)
        if ended.code != 0:
            require_one_message(ended, stage, damaged.name)
            return
    path = project / f"metrics/verify/{VARIANT}.json"
    checks = json.loads(path.read_text("utf-8"))["checks"]
    [own] = [c for c in checks if (*key_of(c), c["check"]) == (1, *INT8)]
    if own["status"] == "passed":  # a bit of little weight: then this is what was measured
        assert own["sha256"] == file_sha256(damaged)


@pytest.mark.fault("damaged cache of engines")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["engine", "record.json"])
def test_a_damaged_cache_of_engines_is_built_anew(
    name: str,
    damage: Callable[[Path], None],
    base: Undisturbed,
    server: StageServer,
    tmp_path: Path,
) -> None:
    project = base.copy(tmp_path / "project", "benchmark")
    shutil.rmtree(project / "artifacts/build")
    damaged = sorted((project / ".cache/engines").glob(f"*/{name}"))
    for path in damaged:
        damage(path)
    ended = server.run(project, "build", VARIANT)
    assert ended.code == 0
    told = ended.errors.splitlines()
    assert all("is damaged; the engine is built again" in line for line in told)
    assert len(told) == len(damaged) > 0
    assert contents(project, "build") == contents(base.root, "build")


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_once_deleted_all_is_well(
    damage: Callable[[Path], None], base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "train")
    process = server.start(project, "train", VARIANT)
    deadline = time.monotonic() + 120
    while not (found := list(project.glob(".cache/checkpoints/*/state.pt"))):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    server.wait()
    [checkpoint] = found
    for earlier in checkpoint.parent.glob("*.before.pt"):  # of an epoch that came before the kill
        earlier.unlink()
    damage(checkpoint)
    ended = server.run(project, "train", VARIANT)
    require_one_message(ended, "train", "is damaged")
    checkpoint.unlink()
    assert server.run(project, "train", VARIANT).code == 0
    assert contents(project, "train") == contents(base.root, "train")


@pytest.mark.fault("flipped bit in a file of tensors")
def test_every_flipped_bit_is_seen_or_without_effect(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("faults", 2 * FLIPS)
    state = {"a": torch.arange(50.0), "b": torch.tensor(3), "c": torch.ones(2, 2).bfloat16()}
    save_tensors(state, tmp_path / "t.safetensors", {"axes": "{}"})
    save_state({"model": state, "history": [{"loss": 0.5}]}, tmp_path / "t.pt")

    def read_tensors(path: Path) -> dict[str, torch.Tensor]:
        tensors, described = load_tensors(path)
        assert described == {"axes": "{}"}
        return tensors

    def read_state(path: Path) -> dict[str, torch.Tensor]:
        found = load_state(path)
        assert found["history"] == [{"loss": 0.5}]
        return found["model"]

    for name, read in (("t.safetensors", read_tensors), ("t.pt", read_state)):
        whole, rng = (tmp_path / name).read_bytes(), random.Random(name)
        seen = 0
        for _ in range(FLIPS):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            (tmp_path / f"flipped.{name}").write_bytes(data)
            try:
                tensors = read(tmp_path / f"flipped.{name}")
            except (ArtifactError, SafetensorError):
                seen += 1
                continue
            assert tensors.keys() == state.keys()
            assert all(torch.equal(tensors[key], state[key]) for key in state)
        assert seen > FLIPS / 4
