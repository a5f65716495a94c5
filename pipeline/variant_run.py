"""Run some stages of one variant through DVC, in a process group of its own, and say how it ended.

DVC locks its project while it looks and writes, not while a stage runs, and locks the paths of
each stage: single stages of several variants run side by side.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import CACHE
from pipeline.dvc_stages import dvc_command, dvc_environment
from pipeline.failures import Failure

SWEEPS = CACHE / "sweep"
THREADS = "OMP_NUM_THREADS"
PATIENCE_S = 10.0  # between asking a process to end and making it

# What is called with a process as soon as it has started.
Started = Callable[[subprocess.Popen[bytes]], None]


@dataclass(frozen=True)
class Job:
    """Stages that run one after the other."""

    name: str  # of the variant, or of what is done for all; its log is called so
    targets: Sequence[str]  # as DVC calls stages: train@lacoot
    threads: int | None = None  # that each process may use; None: it decides


def variant_job(variant: str, stages: Sequence[str], threads: int | None = None) -> Job:
    """Return the job that runs these stages of a variant."""
    return Job(variant, [f"{stage}@{variant}" for stage in stages], threads)


def log_path(name: str) -> Path:
    """Return where a job's output goes; DVC and git ignore it."""
    return SWEEPS / f"{name}.log"


def run_job(
    job: Job, *, started: Started = lambda _: None, inherit: Sequence[int] = ()
) -> Failure | None:
    """Run a job's stages, those that DVC knows to be done left out; None means success.

    Whatever ends the wait for them, e.g. Ctrl-C, ends them too.

    Args:
        job: what to run. Its output is added to its log.
        started: is given the process, the leader of a group of its own.
        inherit: file descriptors that stay open as long as DVC runs.
    """
    log = log_path(job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            dvc_command(["--wait-for-lock", "repro", "--single-item", *job.targets]),
            env={**dvc_environment(), **_limits(job.threads)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherit,
        )
        try:
            started(process)
            code = process.wait()
        finally:
            end_groups([process])
    if code == 0:
        return None
    return explained(log.read_bytes()[begin:].decode(errors="replace"), code)


def end_groups(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the groups of those that still run to end, and make those that do not."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            signal_group(process, signal.SIGKILL)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process and to all that it has started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended by itself meanwhile


def _limits(threads: int | None) -> dict[str, str]:
    """Return the environment that keeps to `threads`, unless the user has set their number."""
    return {} if threads is None or THREADS in os.environ else {THREADS: str(threads)}


def explained(output: str, code: int) -> Failure:
    """Return which stage failed and why, from what DVC and the stage printed.

    A stage tells its reason in a line ``error: …``; else the last line of a traceback is taken,
    or what DVC says.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    stage = re.search(r"failed to reproduce '([\w-]+)", output)
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reasons = [*(told or raised or dvc)[-1:], f"dvc ended with {code}, saying nothing"]
    return Failure(stage.group(1) if stage else "dvc", reasons[0])
