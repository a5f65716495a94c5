"""What is in the MLflow store, in words and without MLflow, which takes seconds to import."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pipeline.store import CONNECT_WAIT_S, TrackingError, require_answer, shown, sqlite_file

FINISHED_RUNS = """
    SELECT experiments.name, count(runs.run_uuid) FROM experiments
    LEFT JOIN runs ON runs.experiment_id = experiments.experiment_id
        AND runs.lifecycle_stage = 'active' AND runs.status = 'FINISHED'
    WHERE experiments.lifecycle_stage = 'active' GROUP BY experiments.name
"""


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
