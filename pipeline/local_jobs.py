"""Jobs on this machine, some at a time; whatever ends the wait for them ends them too."""

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipeline.failures import Failure
from pipeline.variant_run import Job, end_groups, run_job, signal_group

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
                signal_group(process, signal.SIGTERM)

    def end(self) -> None:
        """Ask every group to end, and make those that do not."""
        with self.guard:
            self.ended = True
        end_groups(self.running)


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
