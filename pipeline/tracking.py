"""MLflow, the index over the metrics files: mirrored runs and the live training.

What surrounds the runs is in `pipeline.presentation`, the model registry in `pipeline.registry`.

The store is a convenience and never a reason for a stage to fail: whatever goes wrong with it
becomes one `TrackingError`, within seconds. `mirror` raises it for its caller to decide;
`live_training`, which goes around long work, warns once and sends no more.
"""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.runs import TrackedRun, flat_numbers, flat_params
from pipeline.store import (
    ARTIFACT_ROOT,
    TrackingError,
    exclusive,
    is_server,
    require_answer,
    require_sqlite,
    shown,
    sqlite_file,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run
    from mlflow.tracking.client import MlflowClient

# Read by MLflow, some only while it is imported. Left alone, it waits minutes for a server that
# went away and logs a page about every failure.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

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


@contextmanager
def connected() -> Iterator["MlflowClient"]:
    """Yield a client of the store in use, which no other stage of this folder writes meanwhile.

    Raises:
        TrackingError: the store cannot be used, or failed on the way.
    """
    uri = store_uri()
    with one_error(uri), exclusive():
        yield _connect(uri)


@contextmanager
def live_training(
    name: str, variant: str, key: str, params: Mapping[str, object]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Stream a training to the experiment ``<name>-training`` while it goes on.

    `params` are the variant's sections; `key` names everything that decides the result, so that
    only the same training is continued.

    Yields a function that takes one epoch's entry, whose ``epoch`` is the step. An epoch that
    the run already has is skipped, so entries may be sent again. The run ends FINISHED, or
    FAILED on an exception; an unfinished run of the same key is continued. The first failure of
    the store is told on standard error, and no more is sent.
    """
    run = _LiveRun(store_uri())
    run.attempt(lambda: run.open(f"{name}-training", variant, key, flat_params(params)))
    status = "FAILED"
    try:
        yield lambda epoch: run.attempt(lambda: run.log(epoch))
        status = "FINISHED"
    finally:
        run.attempt(lambda: run.client.set_terminated(run.id, status))


class _LiveRun:
    """A run that is being written, until the store fails for the first time."""

    client: "MlflowClient"
    id: str

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.failed = False
        self.logged: set[int] = set()

    def attempt(self, action: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            with one_error(self.uri):
                action()
        except TrackingError as e:
            self.failed = True
            print(f"warning: {e}", file=sys.stderr)

    def open(self, experiment: str, variant: str, key: str, params: Mapping[str, str]) -> None:
        with exclusive():
            self.client = _connect(self.uri)
            experiment_id = open_experiment(self.client, experiment)
        unfinished = f"tags.\"shoal.key\" = '{key}' and attributes.status != 'FINISHED'"
        if runs := self.client.search_runs([experiment_id], unfinished, max_results=1):
            (run,) = runs
            epochs = self.client.get_metric_history(run.info.run_id, "epoch")
            self.logged = {metric.step for metric in epochs}
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {"variant": variant, "shoal.key": key}
            run = self.client.create_run(experiment_id, None, tags, variant)
        self.id = run.info.run_id
        known = run.data.params  # of a run that was killed before it had any: none
        new = {k: v for k, v in params.items() if k not in known}
        self.client.log_batch(self.id, params=_params(new))

    def log(self, epoch: Mapping[str, Any]) -> None:
        step = int(epoch["epoch"])
        if step not in self.logged:
            values = {"distance" if key == "distances" else key: epoch[key] for key in epoch}
            self.client.log_batch(self.id, metrics=_metrics(flat_numbers(values), step))
            self.logged.add(step)


def _write(client: "MlflowClient", experiment_id: str, run: TrackedRun) -> None:
    """Write a whole run; only the last call makes it FINISHED."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = {**run.tags, "shoal.group": run.group, "shoal.key": run.key}
    run_id = client.create_run(experiment_id, None, tags, run.name).info.run_id
    client.log_batch(run_id, metrics=_metrics(run.metrics, 0), params=_params(run.params))
    source = json.dumps({"uri": run.data.source})
    profile = json.dumps(dict(run.data.profile))
    data = Dataset(run.data.name, run.data.digest, "local", source, profile=profile)
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    client.log_dict(run_id, dict(run.details), DETAILS)
    client.set_terminated(run_id)


def _params(values: Mapping[str, str]) -> list["Param"]:
    from mlflow.entities import Param

    return [Param(key, value) for key, value in values.items()]


def _metrics(values: Mapping[str, float], step: int) -> list["Metric"]:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(key, value, now_ms, step) for key, value in values.items()]


def find_run(client: "MlflowClient", experiment_id: str, key: str) -> "Run | None":
    """Return the finished run of a key; None where there is none."""
    query = f"tags.\"shoal.key\" = '{key}' and attributes.status = 'FINISHED'"
    return next(iter(client.search_runs([experiment_id], query, max_results=1)), None)


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


def open_experiment(client: "MlflowClient", name: str) -> str:
    """Return the id of an experiment: made if it is new, restored if it is in the trash."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if is_server(store_uri()) else ARTIFACT_ROOT.resolve().as_uri()
        return str(client.create_experiment(name, location))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _connect(uri: str) -> "MlflowClient":
    """Return a client of a store that was seen to work; the caller holds the lock."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    require_answer(uri)
    from mlflow.tracking.client import MlflowClient

    if file := sqlite_file(uri):
        require_sqlite(file, create=lambda new: MlflowClient(f"sqlite:///{new}"))
    return MlflowClient(uri)


@contextmanager
def one_error(uri: str) -> Iterator[None]:
    """Turn everything that a store can fail with into a `TrackingError`."""
    try:
        yield
    except _failures() as e:
        raise TrackingError.of(uri, e) from e


def _failures() -> tuple[type[Exception], ...]:
    from alembic.util import CommandError  # a database of another version of MLflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # OSError covers sockets and requests; ImportError is a database driver that is not installed.
    return (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError)
