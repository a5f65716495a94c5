"""The MLflow store locked, lost in the middle, and its server killed: work goes on, told once."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_process import wait_until_it_answers
from stage_server import Outcome, StageServer
from tracked import start_verb
from undisturbed import FULL, VARIANT, Undisturbed, contents, tracked

SECONDS = 60  # within which a store that does not answer is given up; most is a busy machine


def require_one_warning(ended: Outcome) -> None:
    assert ended.code == 0
    [line] = ended.errors.splitlines()
    assert line.startswith("warning: not tracked: ")


@pytest.mark.fault("SQLite store locked by another writer")
@pytest.mark.parametrize("stage", ["train", "track"])
def test_a_locked_store_is_one_warning_within_seconds(
    stage: str, base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", stage)
    with closing(sqlite3.connect(project / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        ended = server.run(project, stage, *[VARIANT][: stage == "train"])
        assert time.monotonic() - started < SECONDS
    require_one_warning(ended)
    assert "locked" in ended.errors
    assert contents(project, stage) == contents(base.root, stage)
    if stage == "track":
        assert server.run(project, "track").errors == ""
        assert [run for run in tracked(base.root) if run[0] != VARIANT] == tracked(project)


@pytest.mark.fault("SQLite store locked by another writer")
def test_a_store_that_is_locked_for_a_moment_is_waited_for(
    base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "track")
    with closing(sqlite3.connect(project / "mlflow.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(1.0, other.rollback)
        release.start()
        ended = server.run(project, "track")
        release.join()
    assert (ended.code, ended.errors) == (0, "")


def train_and_disturb(
    project: Path, server: StageServer, disturb: Callable[[], object], **environment: str
) -> Outcome:
    """Train for a while, and do something as soon as the first epoch is over."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["train"] |= {"epochs": 40}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    server.start(project, "train", VARIANT, **environment)
    deadline = time.monotonic() + 120
    while not list(project.glob(".cache/checkpoints/*/state.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    disturb()
    return server.wait()


@pytest.mark.fault("MLflow store lost while a network trains")
@pytest.mark.parametrize("how", ["locked", "deleted", "damaged"])
def test_a_training_goes_on_without_its_store(
    how: str, base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "train")
    store = project / "mlflow.db"
    with closing(sqlite3.connect(store, check_same_thread=False, timeout=30)) as other:
        ways: dict[str, Callable[[], Any]] = {
            "locked": lambda: other.execute("BEGIN EXCLUSIVE"),
            "deleted": store.unlink,
            "damaged": lambda: store.write_bytes(b"none" * 10_000),
        }
        ended = train_and_disturb(project, server, ways[how])
    assert ended.code == 0
    assert "Traceback" not in ended.errors
    assert len(ended.errors.splitlines()) <= 1  # SQLite goes on writing to a file without a name
    assert ended.errors.startswith("warning: not tracked") or how == "deleted"
    assert "epoch 40/40" in ended.output


@pytest.mark.skipif(not FULL, reason="starting a server takes half a minute; make faults does")
@pytest.mark.fault("MLflow server killed while a network trains")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_training_goes_on_without_its_server(
    number: signal.Signals,
    base: Undisturbed,
    server: StageServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = base.copy(tmp_path / "project", "train")
    monkeypatch.chdir(project)
    ui = start_verb("ui")
    try:
        address = ui.stdout.readline().split()[2]
        wait_until_it_answers(f"{address}/health")
        started = time.monotonic()
        ended = train_and_disturb(
            project,
            server,
            lambda: os.killpg(ui.pid, number),
            MLFLOW_TRACKING_URI=address,
        )
        assert time.monotonic() - started < 2 * SECONDS
    finally:
        os.killpg(ui.pid, signal.SIGKILL)
        ui.communicate(timeout=30)
    require_one_warning(ended)
    assert "epoch 40/40" in ended.output
