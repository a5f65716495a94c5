"""`train.processes`: the stage starts the processes itself, and survives the loss of one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from places import FIXED, ROOT
from pydantic import ValidationError
from safetensors.torch import load_file
from stage_process import run_stage
from trainings import settings

from models.errors import ShoalError
from pipeline.core.artifacts import sole_writer
from pipeline.core.records import read_record
from pipeline.train.launch import threads_of_each, to_start
from pipeline.train.parallel import Shards, synchronise_batch_norm
from pipeline.train.records import TrainMetrics
from stages.train import main

# Without batch norm, whose statistics would be those of each process's images.
VIT = {
    "name": "vit_tiny_patch16_224",
    "options": {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32},
}
NO_STORE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}


@pytest.fixture
def project(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prepared images in which `shared` is trained by two processes."""
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    params["model"] |= VIT
    params["train"] |= {
        "epochs": 4,
        "batch_size": 50,
        "precision": "fp32",
        "penalty": {"lambda": 1.0},
    }
    params["variants"] = {
        "shared": {"train": {"processes": 2}},
        "alone": {},
        "misspelt": {"train": {"processes": 2}, "model": {"name": "resnet81_cifar"}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shutil.copytree(prepared, tmp_path / "artifacts" / "prepare")
    (tmp_path / "metrics").mkdir()
    shutil.copy(prepared / "manifest.json", tmp_path / "metrics" / "prepare.json")
    monkeypatch.chdir(tmp_path)
    for name, value in NO_STORE.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@contextmanager
def training(root: Path) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    """Train `shared`; yield the starter and its processes once an epoch is over."""
    with subprocess.Popen(
        [sys.executable, "-m", "stages.train", "shared"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as starter:
        deadline = time.monotonic() + 120
        while not [*root.glob(".cache/checkpoints/*/state.pt")] and time.monotonic() < deadline:
            time.sleep(0.01)
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text()
        yield starter, [int(child) for child in children.split()]


def test_a_signal_to_the_starter_ends_all_processes(project: Path) -> None:
    with training(project) as (starter, children):
        starter.send_signal(signal.SIGTERM)  # which signals a stage hears: test_stage_script.py
        _, errors = starter.communicate(timeout=60)
    assert starter.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("stopped")
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def ended(process: int) -> bool:
    """Say whether a process is away, or dead and waits for its parent to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def test_processes_end_with_a_starter_that_is_killed(project: Path) -> None:
    with training(project) as (starter, children):
        starter.kill()
        starter.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while not all(map(ended, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(ended, children))
    with sole_writer(next(project.glob(".cache/checkpoints/*"))):
        pass  # nobody holds the checkpoint


def test_a_process_that_stops_answering_ends_the_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_ANSWER_S", "15")
    with training(project) as (starter, children):
        os.kill(children[1], signal.SIGSTOP)
        line = next(line for line in starter.stderr if line.startswith("error: "))
        os.kill(children[1], signal.SIGKILL)  # torch would try to end it gently for 30 s
        _, errors = starter.communicate(timeout=120)
    assert starter.returncode == 1
    assert "Traceback" not in errors
    assert "another process of this training does not answer" in line
    assert "they wait 15 s for each other); all were stopped, run it again to continue" in line
    assert all(map(ended, children))


def test_a_training_that_lost_a_process_ends_and_continues_to_what_one_process_trains(
    project: Path, one_thread: None
) -> None:
    with training(project) as (starter, children):
        os.kill(children[1], signal.SIGKILL)
        _, errors = starter.communicate(timeout=60)
    assert starter.returncode == 1
    assert "error: process 1 of 2 was killed by SIGKILL, the others were stopped" in errors
    assert "Traceback" not in errors
    assert not (project / "artifacts/train").exists()
    (state,) = project.glob(".cache/checkpoints/*/state.pt")
    assert 1 <= len(torch.load(state, weights_only=True)["history"]) < 4

    again = run_stage("train", "shared", cwd=project, **NO_STORE)
    assert again.returncode == 0, again.stderr
    assert "shared: continuing an interrupted training" in again.stdout
    assert again.stdout.count("epoch 4/4") == 1  # one process prints
    assert not state.exists()

    main("alone")
    shared, alone = (
        read_record(Path(f"metrics/train/{name}.json"), TrainMetrics)
        for name in ("shared", "alone")
    )
    assert (shared.processes, alone.processes) == (2, 1)
    for entry, expected in zip(shared.epochs, alone.epochs, strict=True):
        for key in ("loss", "penalty", "macs_spent", "images_seen"):
            assert entry[key] == pytest.approx(expected[key], rel=1e-4)
    weights, expected = (
        load_file(f"artifacts/train/{name}/weights.safetensors") for name in ("shared", "alone")
    )
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4)


def test_an_error_of_all_processes_is_reported_once(project: Path) -> None:
    result = run_stage("train", "misspelt", cwd=project)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no model 'resnet81_cifar'; did you mean")
    assert len(result.stderr.strip().splitlines()) == 1


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (to_start(None), to_start(2), to_start(1)) == (2, 2, 0)
    with pytest.raises(ShoalError, match=r"train\.processes = 3, but this machine has 2 CUDA"):
        to_start(3)


def test_none_is_started_by_one_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert to_start(2) == 0


def test_processes_share_the_threads_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.train.launch.usable_cores", lambda: 12)
    shares = []
    for given in ("8", "1", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        shares.append(threads_of_each(4))
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [*shares, threads_of_each(4)] == [2, 1, 3, 3]


def test_nothing_is_cut_up_for_one_process() -> None:
    with pytest.raises(ShoalError, match=r"'fsdp' cuts a network up among processes"):
        Shards(torch.nn.Linear(2, 2), [], torch.device("cpu"))


def test_batch_norm_of_all_processes_needs_a_gpu() -> None:
    with pytest.raises(ShoalError, match=r"train\.sync_batch_norm needs CUDA devices"):
        synchronise_batch_norm(torch.nn.BatchNorm2d(2), torch.device("cpu"))


def test_no_block_is_removed_from_a_network_that_is_cut_up() -> None:
    with pytest.raises(
        ValidationError, match=r"'fsdp' cuts the network up .* 'anneal' takes blocks"
    ):
        settings(parallel="fsdp", strategy={"name": "anneal"})
