"""A client of MLflow's store: connected within seconds, and one error for all that can go wrong."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.report.tracking.store import (
    ARTIFACT_ROOT,
    TrackingError,
    exclusive,
    is_server,
    require_answer,
    require_sqlite,
    sqlite_file,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run
    from mlflow.tracking.client import MlflowClient

ANSWER_S = 20.0  # that one exchange with a server may take
MIRROR_S = 600.0  # that a step of the stage `track` may take with a server
# Read by MLflow, some only while it is imported. By default it waits minutes for a server that
# is away and logs a page about every failure.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@contextmanager
def connected() -> Iterator["MlflowClient"]:
    """Yield a client of the store in use, which no other stage of this folder writes meanwhile.

    Raises:
        TrackingError: the store cannot be used, or failed on the way.
    """
    uri = store_uri()
    with one_error(uri, MIRROR_S), exclusive():
        yield connect(uri)


def connect(uri: str) -> "MlflowClient":
    """Return a client of a store that was seen to work; the caller holds the lock."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    require_answer(uri)
    from mlflow.tracking.client import MlflowClient

    if file := sqlite_file(uri):
        require_sqlite(file, create=lambda new: MlflowClient(f"sqlite:///{new}"))
    return MlflowClient(uri)


@contextmanager
def one_error(uri: str, limit_s: float = ANSWER_S) -> Iterator[None]:
    """Turn everything that a store can fail with into a `TrackingError`, a long wait included.

    Args:
        uri: of the store.
        limit_s: how long all that is inside may take where the store is a server, whatever it
            answers.
    """
    try:
        with _alarm(limit_s if is_server(uri) else 0):
            yield
    except _failures(uri) as e:
        raise TrackingError.of(uri, e) from e


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds; not where 0, nor in threads, which have none."""
    if not limit_s or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, late)
    # And every second from then on: urllib3 takes the first for its own and asks again.
    signal.setitimer(signal.ITIMER_REAL, limit_s, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _failures(uri: str) -> tuple[type[Exception], ...]:
    from alembic.util import CommandError  # a database of another version of MLflow
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # What MLflow makes of the answers of something that is no MLflow server.
    odd = (ParseError, AttributeError, LookupError, TypeError, ValueError) if is_server(uri) else ()
    # OSError covers sockets and requests; ImportError is a database driver that is not installed.
    return (
        *(MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError),
        *odd,
    )


def open_experiment(client: "MlflowClient", name: str) -> str:
    """Return the id of an experiment: made if it is new, restored if it is in the trash.

    Raises:
        OSError: what answers is no MLflow server, or its files would go to another folder.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if is_server(store_uri()) else ARTIFACT_ROOT.resolve().as_uri()
        return str(client.create_experiment(name, location))
    if not found.experiment_id:
        raise OSError("its answer names no experiment: it is no MLflow server")
    _require_own_files(found.artifact_location)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _require_own_files(location: str) -> None:
    """Raise `OSError` where a store in this folder writes its files into another: it was copied."""
    file = sqlite_file(store_uri())
    if file is None or file.resolve().parent != Path.cwd():
        return
    folder = Path(unquote(urlsplit(location).path))
    if folder != ARTIFACT_ROOT.resolve():
        raise OSError(
            f"it was copied or moved with the project, and its files go to {folder}: move {file} "
            "away and a new one is made"
        )


def find_run(client: "MlflowClient", experiment_id: str, key: str) -> "Run | None":
    """Return the finished run of a key; None where there is none."""
    query = f"tags.\"shoal.key\" = '{key}' and attributes.status = 'FINISHED'"
    return next(iter(client.search_runs([experiment_id], query, max_results=1)), None)


def as_params(values: Mapping[str, str]) -> list["Param"]:
    """Return parameters as MLflow takes them."""
    from mlflow.entities import Param

    return [Param(key, value) for key, value in values.items()]


def as_metrics(values: Mapping[str, float], step: int) -> list["Metric"]:
    """Return numbers as MLflow takes them, at a step."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(key, value, now_ms, step) for key, value in values.items()]
