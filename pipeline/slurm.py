"""Jobs on a Slurm cluster, one each, through submitit (the extra `sweep`).

The nodes see the project's folder and its environment under the same path. What a job leaves is
what DVC leaves, so nothing is copied back, and a sweep that was stopped is run again as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BackendUnavailable
from pipeline.failures import Failure
from pipeline.local_jobs import Done
from pipeline.variant_run import SWEEPS, Job, run_job

FOLDER = SWEEPS / "slurm"  # what submitit sends, and what jobs print beside their logs
POLL_S = 10.0


@dataclass(frozen=True)
class Request:
    """What each job asks for; what is None is left to the cluster."""

    cluster: str = "slurm"  # local: a process here, to try things out
    partition: str | None = None
    hours: float = 24.0
    cpus: int = 4
    gpus: int = 0
    memory_gb: float | None = None
    at_once: int = 256

    def parameters(self) -> dict[str, Any]:
        """Return the request as submitit takes it."""
        asked: dict[str, Any] = {
            "name": "shoal",
            "timeout_min": round(60 * self.hours),
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "mem_gb": self.memory_gb,
            "slurm_partition": self.partition,
            "slurm_array_parallelism": self.at_once,
        }
        return {key: value for key, value in asked.items() if value is not None}


def require_submitit() -> None:
    """Raise `BackendUnavailable` where the package is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable(f"submitit is not installed ({e}); pip install '.[sweep]'") from e


def submit(jobs: Sequence[Job], request: Request, folder: Path = FOLDER) -> list[Any]:
    """Submit jobs as one array and return submitit's handles of them.

    Raises:
        BackendUnavailable: submitit is not installed, or there is no Slurm here.
    """
    require_submitit()
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=request.cluster)
    except RuntimeError as e:
        raise BackendUnavailable(
            f"no Slurm here ({e}); run on a login node, or without --slurm"
        ) from e
    executor.update_parameters(**request.parameters())
    with executor.batch():
        return [executor.submit(run_job, job) for job in jobs]


def run_on_slurm(jobs: Sequence[Job], done: Done, *, request: Request) -> None:
    """Run jobs on the cluster and call `done` for each as it ends.

    Where the wait is ended, e.g. by Ctrl-C, the jobs that are left are cancelled.
    """
    from submitit.helpers import as_completed

    handles = submit(jobs, request)
    poll_s = POLL_S if request.cluster == "slurm" else 0.5
    try:
        for handle in as_completed(handles, poll_frequency=poll_s):
            done(jobs[handles.index(handle)], _ended(handle))
    finally:
        for handle in handles:
            if not handle.done():
                handle.cancel()


def _ended(handle: Any) -> Failure | None:
    """Return how a job ended; one that Slurm ended, say over time, brings no result."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        result: Failure | None = handle.result()
    except (FailedJobError, UncompletedJobError) as e:
        last = str(e).strip().splitlines()[-1]
        return Failure("slurm", f"job {handle.job_id}, {handle.state}: {last}")
    return result
