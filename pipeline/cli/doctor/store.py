"""Can MLflow's store be used?"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pipeline.cli.doctor.finding import OK, WARNING, Finding
from pipeline.core.params import Params
from pipeline.report.tracking.store import (
    CONNECT_WAIT_S,
    TrackingError,
    sqlite_file,
    store_in_words,
    store_uri,
)


def store(params: Params) -> Iterator[Finding]:
    """Yield the state of the store. The pipeline never fails with it: at worst a warning."""
    uri = store_uri()
    try:
        yield Finding("store", OK, store_in_words(uri, params.name))
    except TrackingError as e:
        yield Finding("store", WARNING, str(e))
        return
    if (file := sqlite_file(uri)) and file.exists() and (reason := _not_writable(file)):
        remedy = f"end what holds it, or make {file} writable"
        yield Finding("store", WARNING, f"{file} cannot be written now: {reason}", remedy)


def _not_writable(file: Path) -> str | None:
    try:
        with closing(sqlite3.connect(file, timeout=CONNECT_WAIT_S)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as e:
        return str(e)
    return None
