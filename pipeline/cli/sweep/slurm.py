"""Jobs on a Slurm cluster, one each, through submitit (the extra `sweep`).

The nodes see the project's folder and its environment under the same path. What a job leaves is
what DVC leaves, so nothing is copied back, and a sweep that was stopped is run again as it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import BackendUnavailable
from pipeline.cli.sweep.jobs import SWEEPS, Ended, Job, run_alone
from pipeline.report.failures import Failure

FOLDER = SWEEPS / "slurm"  # what submitit sends, and what jobs print beside their logs
POLL_S = 10.0
DEFAULTS = {"name": "shoal", "timeout_min": 24 * 60, "cpus_per_task": 4, "gpus_per_node": 0}


def executor(cluster: str, asked: Mapping[str, Any], folder: Path = FOLDER) -> Any:
    """Return what submits jobs.

    Args:
        cluster: ``slurm``, or ``local``: processes here, to try things out.
        asked: what each job asks for beside `DEFAULTS`, as submitit names it.
        folder: where submitit keeps its files.

    Raises:
        BackendUnavailable: submitit is not installed, or there is no Slurm here.
    """
    try:
        import submitit
    except ImportError as e:
        raise BackendUnavailable(f"submitit is not installed ({e}); pip install '.[sweep]'") from e
    try:
        found = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError as e:
        raise BackendUnavailable(
            f"no Slurm here ({e}); run on a login node, or without --slurm"
        ) from e
    found.update_parameters(**{**DEFAULTS, **asked})
    return found


def run_on_slurm(jobs: Sequence[Job], ended: Ended, *, executor: Any) -> None:
    """Run jobs on the cluster, one array of them, and call `ended` for each.

    Where the wait is ended, e.g. by Ctrl-C, the jobs that are left are cancelled.
    """
    from submitit.helpers import as_completed

    with executor.batch():
        handles = [
            executor.submit(run_alone, job, executor.parameters["cpus_per_task"]) for job in jobs
        ]
    poll_s = POLL_S if executor.cluster == "slurm" else 0.5
    try:
        for handle in as_completed(handles, poll_frequency=poll_s):
            ended(jobs[handles.index(handle)], _failure(handle))
    finally:
        for handle in handles:
            if not handle.done():
                handle.cancel()


def _failure(handle: Any) -> Failure | None:
    """Return why a job failed; one that Slurm ended, e.g. over time, brings no result."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        result: Failure | None = handle.result()
    except (FailedJobError, UncompletedJobError) as e:
        last = str(e).strip().splitlines()[-1]
        return Failure("slurm", f"job {handle.job_id}, {handle.state}: {last}")
    return result
