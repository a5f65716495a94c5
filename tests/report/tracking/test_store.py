"""Stores that are new, away, damaged, locked or misnamed."""

import socket
import sqlite3
import time
from pathlib import Path

import pytest
from tracked import run_stage, runs_of, start_stage, track

from pipeline.report.tracking import store
from pipeline.report.tracking.store import TrackingError, shown


def test_a_deleted_store_is_filled_once_even_by_two_stages_at_once(project: Path) -> None:
    Path("mlflow.db").unlink()
    Path(".mlflow.db.4194305.tmp").write_bytes(
        b"left by a process that was killed while it made one"
    )
    stages = [start_stage("track"), start_stage("track")]
    (first, *errors), (second, *more_errors) = (stage.communicate(timeout=60) for stage in stages)
    lines = sorted([*first.splitlines(), *second.splitlines()])
    assert lines == [
        "6 runs in sqlite:///mlflow.db: 0 added, 6 already there",
        "6 runs in sqlite:///mlflow.db: 6 added, 0 already there",
        "champion of shoal: version 1, dense-l1-fp32 (added)",
        "champion of shoal: version 1, dense-l1-fp32 (already there)",
    ]
    assert errors == more_errors == [""]
    assert [stage.returncode for stage in stages] == [0, 0]
    assert len(runs_of("shoal")) == 6


def test_a_server_that_is_away_is_a_warning_within_seconds(project: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken but not listening
        uri = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        code, _, errors = run_stage("track", MLFLOW_TRACKING_URI=uri)
    assert time.monotonic() - started < 10
    assert code == 0
    (line,) = errors.splitlines()
    assert line.startswith("warning: not tracked: the MLflow store http://127.0.0.1:")
    assert "start the server or unset MLFLOW_TRACKING_URI" in line
    assert "secret" not in line


def _damaged(folder: Path) -> Path:
    (folder / "damaged.db").write_bytes(b"no database" * 1000)
    return folder / "damaged.db"


def _folder(folder: Path) -> Path:
    (folder / "folder.db").mkdir()
    return folder / "folder.db"


def _unwritable(folder: Path) -> Path:
    return Path("/proc/nowhere/mlflow.db")


@pytest.mark.parametrize("spoil", [_damaged, _folder, _unwritable])
def test_an_unusable_database_is_one_error_within_seconds(
    project: Path, spoil, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = spoil(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    started = time.monotonic()
    with pytest.raises(TrackingError, match=rf"{file} cannot be used .*delete it") as error:
        track()
    assert time.monotonic() - started < 10
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "uri", ["postgresql://u@127.0.0.1:1/db", "nonsense://x", "http://h:port", "http://[h"]
)
def test_an_unusable_uri_is_one_error(
    project: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"cannot be used .*MLFLOW_TRACKING_URI"):
        track()


def test_a_database_locked_by_another_process_is_one_error(project: Path) -> None:
    other = sqlite3.connect(project / "mlflow.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TrackingError, match="locked"):
        track()
    other.close()


def test_a_stage_that_keeps_the_lock_is_one_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.2)
    with store.exclusive(), pytest.raises(TrackingError, match=r"held \.cache/mlflow\.lock"):
        track()


def test_shown_hides_the_login() -> None:
    assert shown("https://me:secret@host/x") == "https://host/x"
    assert shown("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
