"""A training streamed to MLflow while it runs.

It is long work, which a store must not stop: whatever goes wrong with the store is one warning,
and nothing more is sent.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.report.tracking.client import (
    ANSWER_S,
    as_metrics,
    as_params,
    connect,
    one_error,
    open_experiment,
)
from pipeline.report.tracking.schema import flat_numbers, flat_params
from pipeline.report.tracking.store import TrackingError, exclusive, store_uri

if TYPE_CHECKING:
    from mlflow.tracking.client import MlflowClient


@contextmanager
def live_training(
    name: str, variant: str, key: str, params: Mapping[str, object]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Stream a training to the experiment ``<name>-training`` while it runs.

    `params` are the variant's sections; `key` names everything that decides the result, so that
    only the same training is continued.

    Yields a function that takes one epoch's entry, whose ``epoch`` is the step. An epoch that
    the run already has is skipped, so entries may be sent again. The run ends FINISHED, or
    FAILED on an exception; an unfinished run of the same key is continued. The first failure of
    the store, and an answer that takes more than `ANSWER_S`, is a warning on standard error, and no
    more is sent.
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
            with one_error(self.uri, ANSWER_S):
                action()
        except TrackingError as e:
            self.failed = True
            print(f"warning: {e}", file=sys.stderr)

    def open(self, experiment: str, variant: str, key: str, params: Mapping[str, str]) -> None:
        with exclusive():
            self.client = connect(self.uri)
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
        self.client.log_batch(self.id, params=as_params(new))

    def log(self, epoch: Mapping[str, Any]) -> None:
        step = int(epoch["epoch"])
        if step not in self.logged:
            values = {"distance" if key == "distances" else key: epoch[key] for key in epoch}
            self.client.log_batch(self.id, metrics=as_metrics(flat_numbers(values), step))
            self.logged.add(step)
