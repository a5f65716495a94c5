"""Sweeps with the real DVC: failures, stops and kills, and what runs again after them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from toy_project import (
    edit_variants,
    environment,
    run_sweep,
    sweep_command,
    taken_runs,
    write_toy_project,
)

from pipeline.cli.dvc import RWLOCK
from pipeline.cli.sweep.jobs import KILLED_REMEDY, Job, explained, run_locally
from pipeline.report.failures import Failure


def failed(root: Path) -> dict:
    return json.loads((root / "metrics" / "failed.json").read_text(encoding="utf-8"))


def test_a_variant_that_fails_is_listed_and_alone_runs_again(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    done = run_sweep(tmp_path, "learning_rate=0.1,7", "-j", "2")
    assert (done.returncode, done.stderr) == (1, "")
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert taken_runs(tmp_path) == sorted(
        [
            "prepare  None",
            *(f"train {v} {threads}" for v in ("dense", "learning_rate0_1", "learning_rate7")),
            *(f"verify {v} {threads}" for v in ("dense", "learning_rate0_1")),
            "benchmark  None",
            "report  None",
        ]
    )
    reason = "the loss is nan in epoch 1"
    assert failed(tmp_path) == {"learning_rate7": {"stage": "train", "reason": reason}}
    lines = done.stdout.splitlines()
    assert lines[0] == "params.yaml: 2 variants added, 0 were there"
    assert f"failed: learning_rate7 in train: {reason}" in lines
    assert f"learning_rate7 failed in train: {reason} (log in .cache/sweep)" in lines
    assert "dense: verify is done" in lines

    edit_variants(tmp_path, lambda there: there["learning_rate7"]["train"].update(learning_rate=1))
    done = run_sweep(tmp_path, "-j", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rpartition(" ")[0] for line in taken_runs(tmp_path)] == [
        "benchmark ",
        "report ",
        "train learning_rate7",
        "verify learning_rate7",
    ]
    assert "2 of 3 variants are up to date" in done.stdout
    assert failed(tmp_path) == {}


def test_failures_of_variants_that_are_done_or_removed_are_forgotten(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    assert run_sweep(tmp_path).returncode == 0
    taken_runs(tmp_path)
    entry = {"stage": "train", "reason": "x"}
    record = json.dumps({"dense": entry, "removed": entry})
    (tmp_path / "metrics" / "failed.json").write_text(record)
    done = run_sweep(tmp_path, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert failed(tmp_path) == {}
    assert taken_runs(tmp_path) == []


def test_who_learns_from_one_that_failed_is_skipped(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "other")
    hot = {"dense": {"train": {"learning_rate": 7}}}
    taught = {"student": {"train": {"distill": {"teacher": "dense"}, "learning_rate": 0.1}}}
    edit_variants(tmp_path, lambda there: there.update(hot | taught))
    done = run_sweep(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    trained = [line for line in taken_runs(tmp_path) if "train" in line]
    assert trained == ["train dense None", "train other None"]
    reason = "blocked by dense, which failed"
    assert failed(tmp_path)["student"] == {"stage": "train", "reason": reason}
    assert f"failed: student in train: {reason}" in done.stdout.splitlines()

    edit_variants(tmp_path, lambda there: there["dense"]["train"].update(learning_rate=1))
    assert run_sweep(tmp_path).returncode == 0
    assert failed(tmp_path) == {}


def test_a_trial_that_fails_is_run_once(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    done = run_sweep(tmp_path, "learning_rate=7", "--optuna", "1")
    assert (done.returncode, done.stderr) == (1, "")
    runs = taken_runs(tmp_path)
    (trial,) = failed(tmp_path)
    assert runs.count(f"train {trial} None") == 1
    assert "verify dense None" in runs
    assert f"failed: {trial} in train: the loss is nan in epoch 1" in done.stdout.splitlines()


def start(root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        sweep_command("-j", "2"),
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(stage: str, root: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 60
    runs = root / "runs.txt"
    while not runs.exists() or runs.read_text().count(stage) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sweep_that_is_stopped_or_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense", "other")
    hold = tmp_path / "hold"
    hold.touch()
    process = start(tmp_path)
    wait_for("train", tmp_path, process, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "stopped\n")
    assert failed(tmp_path) == {}
    assert not stages_left(tmp_path)

    taken_runs(tmp_path)
    (tmp_path / RWLOCK).write_text("", encoding="utf-8")  # as a DVC leaves it that ends there
    process = start(tmp_path)
    wait_for("train", tmp_path, process, 2)
    process.kill()
    process.communicate()
    hold.unlink()  # what the killed sweep left running now ends
    done = run_sweep(tmp_path, "-j", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line.rpartition(" ")[0] for line in taken_runs(tmp_path)) == [
        "benchmark ",
        "report ",
        "train dense",
        "train other",
        "verify dense",
        "verify other",
    ]
    assert failed(tmp_path) == {}


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, "stopped\n"),
        (signal.SIGTERM, "stopped by SIGTERM\n"),
        (signal.SIGHUP, "stopped by SIGHUP\n"),
    ],
)
def test_a_sweep_stopped_in_what_all_need_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals, told: str
) -> None:
    write_toy_project(tmp_path, "dense")
    (tmp_path / "hold-prepare").touch()
    process = start(tmp_path)
    wait_for("prepare", tmp_path, process, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, told)
    assert not stages_left(tmp_path)


def test_what_a_killed_sweep_left_of_what_all_need_is_waited_for(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    hold = tmp_path / "hold-prepare"
    hold.touch()
    process = start(tmp_path)
    wait_for("prepare", tmp_path, process, 1)
    process.kill()
    process.communicate()
    again = start(tmp_path)
    assert again.stdout is not None
    assert again.stdout.readline().startswith("waiting for another sweep, or for what a killed one")
    hold.unlink()
    _, errors = again.communicate(timeout=60)
    assert (again.returncode, errors) == (0, "")


def stages_left(root: Path) -> list[str]:
    """Return the command lines of processes whose folder is the project."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").resolve() == root.resolve():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended
    return found


def test_jobs_of_slurm_run_through_submitit(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    done = run_sweep(tmp_path, "learning_rate=7", "--slurm-local", "--cpus", "3")
    assert (done.returncode, done.stderr) == (1, "")
    assert failed(tmp_path)["learning_rate7"]["stage"] == "train"
    runs = taken_runs(tmp_path)
    assert {"train dense 3", "verify dense 3", "train learning_rate7 3"} <= set(runs)


def test_a_stage_that_all_need_stops_the_sweep(tmp_path: Path) -> None:
    write_toy_project(tmp_path, "dense")
    program = tmp_path / "toy.py"
    text = program.read_text(encoding="utf-8")
    program.write_text(text + "sys.exit('error: no images' if stage == 'prepare' else 0)\n")
    done = run_sweep(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: prepare failed: no images (log: .cache/sweep/shared.log)\n"


@pytest.mark.parametrize(
    ("output", "failure"),
    [
        (
            "Running stage 'heal@a':\nerror: the disk is full\n"
            "ERROR: failed to reproduce 'heal@a': failed to run: x, exited with 1",
            Failure("heal", "the disk is full"),
        ),
        (
            "Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: too large\n"
            "ERROR: failed to reproduce 'train@a-b': failed to run: x, exited with 1",
            Failure("train", "torch.OutOfMemoryError: too large"),
        ),
        (
            "ERROR: failed to reproduce 'train@a': failed to run: x, exited with -9",
            Failure("train", f"killed by SIGKILL; {KILLED_REMEDY}"),
        ),
        ("", Failure("dvc", "dvc ended with -9 without a message")),
    ],
)
def test_the_reason_is_what_the_stage_printed(output: str, failure: Failure) -> None:
    assert explained(output, -9) == failure


def test_a_reason_is_one_line_that_can_be_printed() -> None:
    failure = explained("error: a\x1b[31m\x07b\nERROR: failed to reproduce 'train@dense': x\n", 1)
    assert failure.reason.isprintable()


def test_an_error_of_who_waits_ends_what_it_started_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_project(tmp_path, "dense", "other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    Path("hold").touch()

    def refuse(job: Job, _: Failure | None) -> None:
        raise KeyError(job.name)

    jobs = [Job("prepare", ["prepare"]), *(Job(v, [f"train@{v}"]) for v in ("dense", "other"))]
    with subprocess.Popen(["sleep", "600"]) as bystander:
        with pytest.raises(KeyError, match="prepare"):
            run_locally(jobs[:2], refuse, workers=1)
        assert bystander.poll() is None
        bystander.kill()
    assert not [line for line in stages_left(tmp_path) if "toy.py" in line]
