"""The metrics files mirrored into MLflow: a run per network, written once and whole."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipeline.core.artifacts import digest
from pipeline.report.failures import Failure
from pipeline.report.tracking.client import as_metrics, as_params, connected, open_experiment
from pipeline.report.tracking.schema import TrackedRun
from pipeline.report.tracking.store import shown, store_uri

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient

FAILURE = "shoal.failure"  # tag of a run that stands for a variant that failed
DETAILS = "metrics.json"  # of a run: what its metrics and params leave out


@dataclass(frozen=True)
class TrackReport:
    """What `mirror` found and did."""

    store: str
    added: int
    present: int

    def __str__(self) -> str:
        """Return e.g. ``12 runs in sqlite:///mlflow.db: 3 added, 9 already there``."""
        runs = self.added + self.present
        return f"{runs} runs in {self.store}: {self.added} added, {self.present} already there"


def mirror(experiment: str, runs: Sequence[TrackedRun]) -> TrackReport:
    """Make the experiment hold every one of `runs` once and whole; leave its other runs alone.

    A finished run of the same key is kept; one that a killed process left half-written is
    deleted and written again.

    Raises:
        TrackingError: the store cannot be used.
    """
    with connected() as client:
        experiment_id = open_experiment(client, experiment)
        finished = _finished_keys(client, experiment_id, {run.group for run in runs})
        missing = [run for run in runs if run.key not in finished]
        for run in missing:
            _write(client, experiment_id, run)
    return TrackReport(shown(store_uri()), added=len(missing), present=len(runs) - len(missing))


def _write(client: "MlflowClient", experiment_id: str, run: TrackedRun) -> None:
    """Write a whole run; only the last call makes it FINISHED."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = {**run.tags, "shoal.group": run.group, "shoal.key": run.key}
    run_id = client.create_run(experiment_id, None, tags, run.name).info.run_id
    client.log_batch(run_id, metrics=as_metrics(run.metrics, 0), params=as_params(run.params))
    source = json.dumps({"uri": run.data.source})
    profile = json.dumps(dict(run.data.profile))
    data = Dataset(run.data.name, run.data.digest, "local", source, profile=profile)
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    client.log_dict(run_id, dict(run.details), DETAILS)
    client.set_terminated(run_id)


def _finished_keys(client: "MlflowClient", experiment_id: str, groups: set[str]) -> set[str]:
    """Return the keys of finished runs; delete unfinished ones, whose writer must be dead.

    (A living writer would hold the lock that the caller holds.)
    """
    keys = set()
    for group in groups:
        query = f"tags.\"shoal.group\" = '{group}'"
        for run in client.search_runs([experiment_id], query, max_results=1000):
            if run.info.status == "FINISHED":
                keys.add(run.data.tags.get("shoal.key", ""))
            else:
                client.delete_run(run.info.run_id)
    return keys


def mirror_failures(experiment: str, failures: Mapping[str, Failure]) -> None:
    """Make the experiment hold a FAILED run, with the reason, per variant that failed, no others.

    Raises:
        TrackingError: the store cannot be used.
    """
    wanted = {digest([name, asdict(failure)]): name for name, failure in failures.items()}
    with connected() as client:
        experiment_id = open_experiment(client, experiment)
        there = client.search_runs([experiment_id], f"tags.`{FAILURE}` != ''", max_results=1000)
        for run in there:
            key = run.data.tags[FAILURE]
            if key in wanted and run.info.status == "FAILED":
                del wanted[key]
            else:
                client.delete_run(run.info.run_id)
        for key, name in wanted.items():
            reason = as_text(failures[name].reason)
            tags = {
                FAILURE: key,
                "variant": name,
                "failed_in": failures[name].stage,
                "mlflow.note.content": reason,
            }
            run_id = client.create_run(experiment_id, None, tags, name).info.run_id
            client.set_terminated(run_id, "FAILED")


def as_text(reason: str) -> str:
    """Return what someone else wrote as Markdown shows it: no links, no images, no controls."""
    printable = "".join(c if c.isprintable() else " " for c in reason)
    return re.sub(r"([\\`*_{}\[\]()<>#!|])", r"\\\1", printable)
