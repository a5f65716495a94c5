"""Jobs on this machine, some at a time; whatever ends the wait for them ends them too."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipeline.failures import Failure
from pipeline.variant_run import Job, run_job

PATIENCE_S = 10.0  # between asking a process to end and making it

# What is called when a job has ended.
Done = Callable[[Job, Failure | None], None]


class Processes:
    """The processes that are running; after `end` none starts."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []
        self.ended = False
        self.guard = threading.Lock()

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Take in a process that leads a group; it ends at once where all have ended."""
        with self.guard:
            self.running.append(process)
            if self.ended:
                _signal(process, signal.SIGTERM)

    def end(self) -> None:
        """Ask every group to end, and make those that do not."""
        with self.guard:
            self.ended = True
            running = [process for process in self.running if process.poll() is None]
            for process in running:
                _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # it ended by itself meanwhile


def run_locally(
    jobs: Sequence[Job], done: Done, *, workers: int, inherit: Sequence[int] = ()
) -> None:
    """Run jobs, `workers` at a time, and call `done` for each as it ends.

    Args:
        jobs: independent of each other.
        done: called in this thread.
        workers: how many run at once.
        inherit: as `run_job` takes it.
    """
    processes = Processes()
    with ThreadPoolExecutor(workers) as pool:
        waiting = {
            pool.submit(run_job, job, started=processes.add, inherit=inherit): job for job in jobs
        }
        try:
            for future in as_completed(waiting):
                done(waiting[future], future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
