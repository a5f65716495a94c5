"""Run stages of variants through DVC, some variants at a time on this machine.

DVC locks its project while it looks and writes, not while a stage runs, and locks the paths of
each stage: single stages of several variants run side by side.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

import psutil

from pipeline.cli.dvc import dvc_command, dvc_environment, remove_damaged_lock
from pipeline.core.artifacts import CACHE
from pipeline.core.params.messages import one_line
from pipeline.report.failures import Failure

SWEEPS = CACHE / "sweep"  # what jobs print; DVC and git ignore it
THREADS = "OMP_NUM_THREADS"
KILLED_REMEDY = (
    "if memory ran out, lower train.batch_size or run fewer jobs at once; else try "
    f"train.precision: fp32, an even train.batch_size, or {THREADS}=1"
)
PATIENCE_S = 10.0  # between asking a process to end and killing it

Message = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """Stages that run one after the other."""

    name: str  # of the variant, or of what is done for all; its log is named so
    targets: Sequence[str]  # as DVC addresses stages: train@lacoot


# What is called when a job has ended.
Ended = Callable[[Job, Failure | None], None]


@contextlib.contextmanager
def only_sweep(message: Message) -> Iterator[None]:
    """Wait for other sweeps of this project, also for what a killed one has left running."""
    SWEEPS.mkdir(parents=True, exist_ok=True)
    with (SWEEPS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message("waiting for another sweep, or for what a killed one left running")
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # DVC, started below, holds it too
        remove_damaged_lock()
        yield


def run_locally(
    jobs: Sequence[Job], ended: Ended, *, workers: int = 1, threads: int | None = None
) -> None:
    """Run independent jobs, and call `ended` for each, in this thread.

    Whatever ends the wait for them, e.g. Ctrl-C, ends their processes too.

    Args:
        jobs: what to run.
        ended: called as each ends; None in place of a failure means success.
        workers: how many run at a time.
        threads: that each process may use; None: it decides.
    """
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_run, job, threads, started): job for job in jobs}
        try:
            for future in as_completed(running):
                ended(running[future], future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while wait(running, timeout=0.1).not_done:
                _end(started)


def run_alone(job: Job, threads: int | None = None) -> Failure | None:
    """Run one job; None means success."""
    failures: list[Failure | None] = []
    run_locally([job], lambda _, failure: failures.append(failure), threads=threads)
    return failures[0]


def _run(job: Job, threads: int | None, started: list[subprocess.Popen[bytes]]) -> Failure | None:
    """Run a job's stages but those that DVC knows to be done; its output is added to its log.

    The process is added to `started`.
    """
    limits = {} if threads is None or THREADS in os.environ else {THREADS: str(threads)}
    log = SWEEPS / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            dvc_command(["--wait-for-lock", "repro", "--single-item", *job.targets]),
            env={**dvc_environment(), **limits},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            close_fds=False,  # the lock of `only_sweep`
        )
        started.append(process)
        code = process.wait()
    printed = log.read_bytes()[begin:].decode(errors="replace")
    return explained(printed, code) if code else None


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes and all below them to end, and kill those that do not."""
    left: list[psutil.Process] = []
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            left += [*root.children(recursive=True), root]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for running in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(running)
        _, left = psutil.wait_procs(left, timeout=PATIENCE_S)


def explained(output: str, code: int) -> Failure:
    """Return which stage failed and why, from what DVC and the stage printed.

    A stage prints its reason in a line ``error: …``; else the last line of a traceback is taken,
    or the error of DVC.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    stage = re.search(r"failed to reproduce '([\w-]+)", output)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    killed = [_killed(int(number)) for number in re.findall(r"exited with -(\d+)", output)]
    found = (killed or errors or raised or dvc)[-1:]
    reason = [*found, f"dvc ended with {code} without a message"][0]
    return Failure(stage.group(1) if stage else "dvc", one_line(reason))


def _killed(number: int) -> str:
    """Return what ended a stage, which could print nothing itself, and what to try."""
    return f"killed by {signal.Signals(number).name}; {KILLED_REMEDY}"
