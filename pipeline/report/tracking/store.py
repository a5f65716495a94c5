"""Where the MLflow store is, and whether it can be used: known within seconds, without MLflow."""

import os
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from models.errors import ShoalError
from pipeline.core.artifacts import CACHE, POLL_S, holder, replace_file, taken

DEFAULT_STORE = "sqlite:///mlflow.db"
ARTIFACT_ROOT = Path("mlartifacts")
CONNECT_WAIT_S = 2.0
LOCK_WAIT_S = 20.0
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
FINISHED_RUNS = """
    SELECT experiments.name, count(runs.run_uuid) FROM experiments
    LEFT JOIN runs ON runs.experiment_id = experiments.experiment_id
        AND runs.lifecycle_stage = 'active' AND runs.status = 'FINISHED'
    WHERE experiments.lifecycle_stage = 'active' GROUP BY experiments.name
"""


class TrackingError(ShoalError):
    """The MLflow store cannot be reached, read or written."""

    @classmethod
    def of(cls, uri: str, cause: Exception) -> "TrackingError":
        """Return the one-line error of a store that failed with `cause`."""
        reason = next(iter(str(cause).splitlines()), "") or type(cause).__name__
        return cls(
            f"not tracked: the MLflow store {shown(uri)} cannot be used "
            f"({_without_login(reason, uri)}); the metrics files hold everything: "
            f"{_remedy(uri)}, then run `python -m stages.track`"
        )


def store_uri() -> str:
    """Return the store in use: ``MLFLOW_TRACKING_URI``, else a SQLite file in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def shown(uri: str) -> str:
    """Return the URI without the user and password that it may hold."""
    return _without_login(uri, uri)


def is_server(uri: str) -> bool:
    """Return whether the store is an MLflow server, which keeps artifacts in a place of its own."""
    return _split(uri).scheme in {"http", "https"}


def sqlite_file(uri: str) -> Path | None:
    """Return the file behind a ``sqlite:///`` URI; None for every other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return None if path in {"", ":memory:"} or not uri.startswith("sqlite:///") else Path(path)


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold a lock between the stages of this folder: two that make a store at once crash MLflow.

    Raises:
        TimeoutError: another process has held the lock for `LOCK_WAIT_S`.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "mlflow.lock").open("a+") as lock:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not taken(lock):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{holder(lock)} has held {lock.name} for {LOCK_WAIT_S:.0f} s")
            time.sleep(POLL_S)
        yield


def require_answer(uri: str) -> None:
    """Ask for a connection where the store is on a network: MLflow alone would ask for minutes.

    Raises:
        OSError: the address is malformed or nothing listens there.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as e:
        raise OSError(f"not an address: {e}") from e
    scheme = parts.scheme.partition("+")[0]
    if scheme not in DEFAULT_PORTS or parts.hostname is None:
        return
    if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return  # only the proxy knows, and it answers at once
    address = (parts.hostname, port or DEFAULT_PORTS[scheme])
    socket.create_connection(address, timeout=CONNECT_WAIT_S).close()


def require_sqlite(file: Path, create: Callable[[Path], object]) -> None:
    """Make the database with `create` where there is none; raise where it cannot be written.

    It is made in a file that appears whole, since a process killed half-way through the tables
    would leave a database that MLflow can neither use nor repair. The trial write spares the
    minutes for which MLflow tries again to open what is damaged or read-only.

    Raises:
        OSError, sqlite3.Error: the file cannot be made, is no database, or is not writable.
    """
    if not file.exists() or file.stat().st_size == 0:
        with replace_file(file) as temporary:
            create(temporary)
    with closing(sqlite3.connect(file, timeout=CONNECT_WAIT_S)) as database:
        database.execute("BEGIN IMMEDIATE")


def _split(uri: str) -> SplitResult:
    """Return the parts of a URI; none of one that is malformed."""
    try:
        return urlsplit(uri)
    except ValueError:
        return urlsplit("")


def _without_login(text: str, uri: str) -> str:
    login = _split(uri).netloc.rpartition("@")[0]
    return text.replace(f"{login}@", "") if login else text


def _remedy(uri: str) -> str:
    if is_server(uri):
        return "start the server or unset MLFLOW_TRACKING_URI"
    if file := sqlite_file(uri):
        return f"make {file} writable, or delete it if it is damaged"
    return "correct or unset MLFLOW_TRACKING_URI"


def store_in_words(uri: str, name: str) -> str:
    """Return e.g. ``sqlite:///mlflow.db: 52 runs of shoal, 3 runs of shoal-training``.

    Args:
        uri: of the store.
        name: of the project, as in params.yaml.

    Raises:
        TrackingError: it cannot be reached or read.
    """
    file = sqlite_file(uri)
    try:
        require_answer(uri)
        counts = finished_runs(file) if file and file.exists() else {}
    except (OSError, sqlite3.Error) as e:
        raise TrackingError.of(uri, e) from e
    if file is None:
        return f"{shown(uri)} answers"
    if not file.exists():
        return f"{shown(uri)}: not there yet; the stage `track` makes it"
    own = {key: counts.get(key, 0) for key in (name, f"{name}-training")}
    return f"{shown(uri)}: " + ", ".join(f"{n} runs of {key}" for key, n in own.items())


def finished_runs(file: Path) -> Mapping[str, int]:
    """Return the number of finished runs of each experiment in a SQLite store; it stays as it is.

    Raises:
        sqlite3.Error: it is damaged, or is no store of MLflow's.
    """
    uri = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=CONNECT_WAIT_S)) as database:
        return dict(database.execute(FINISHED_RUNS).fetchall())
