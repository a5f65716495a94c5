"""What is sent to Slurm, read from the script that `sbatch` is given."""

import sys
from pathlib import Path

import pytest

from models.errors import BackendUnavailable
from pipeline.__main__ import main
from pipeline.cli.exit_codes import WRONG_USAGE
from pipeline.cli.sweep.command import workers_of
from pipeline.cli.sweep.jobs import Job
from pipeline.report.failures import Failure

JOBS = [Job(name, [f"train@{name}"]) for name in ("dense", "lacoot")]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of a cluster: one that takes a job, one that is there, one that knows none."""
    programs = {
        "sbatch": f'cp "$1" {tmp_path}/sent.sh; echo Submitted batch job 77',
        "srun": "exit 1",
        "sacct": "echo 'JobID|State|NodeList'; for t in 0 1; do echo \"77_$t|TIMEOUT|\"; done",
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
    }
    for name, body in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("pipeline.cli.sweep.slurm.POLL_S", 0.05)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0.1)  # for slow file systems
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_asks_for_what_was_asked(slurm: Path) -> None:
    workers_of("slurm", 1, partition="gpu", hours=2.5, cpus=8, gpus=1, memory_gb=32).run(
        JOBS, lambda _job, _failure: None
    )
    script = (slurm / "sent.sh").read_text(encoding="utf-8")
    for option in (
        "--array=0-1%1",
        "--cpus-per-task=8",
        "--gpus-per-node=1",
        "--mem=32GB",
        "--partition=gpu",
        "--time=150",
        "--job-name=shoal",
    ):
        assert f"#SBATCH {option}\n" in script


@pytest.mark.parametrize("words", [["--cpus", "2"], ["--gpus", "0"], ["--memory-gb", "1"]])
def test_what_is_of_slurm_is_refused_without_it(words: list[str]) -> None:
    with pytest.raises(
        SystemExit, match=f"only with --slurm: {words[0]}; add --slurm, or leave out"
    ):
        main(["sweep", *words])


@pytest.mark.parametrize("words", [["--cpus", "0", "--slurm"], ["-j", "0"]])
def test_no_job_has_no_cores(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *words]) == WRONG_USAGE
    assert "0 is not in the range x>=1" in capsys.readouterr().err


def test_what_is_not_asked_for_is_left_to_the_cluster(slurm: Path) -> None:
    workers_of("slurm", None, partition=None).run(JOBS, lambda _job, _failure: None)
    script = (slurm / "sent.sh").read_text(encoding="utf-8")
    assert "#SBATCH --cpus-per-task=4\n" in script
    assert "#SBATCH --time=1440\n" in script
    assert "--mem" not in script
    assert "--partition" not in script


def test_a_job_that_slurm_ended_is_a_failure_with_its_state(slurm: Path) -> None:
    ended: dict[str, Failure | None] = {}
    run = workers_of("slurm", None).run
    run(JOBS, lambda job, failure: ended.update({job.name: failure}))
    assert set(ended) == {"dense", "lacoot"}
    failure = ended["dense"]
    assert failure is not None
    assert failure.stage == "slurm"
    assert failure.reason.startswith("job 77_0, TIMEOUT: ")
    assert not (slurm / "cancelled").exists()


def test_without_slurm_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BackendUnavailable, match=r"no Slurm here \(.*srun.*run on a login node"):
        workers_of("slurm", None)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BackendUnavailable, match=r"submitit is not installed .*'\.\[sweep\]'"):
        workers_of("slurm", None)
