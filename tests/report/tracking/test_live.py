"""The live stream of a training, against real SQLite stores."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tracked import client, runs_of

from pipeline.report.tracking.live import live_training
from stages.track import main as track_stage

CONFIGURATION = {"model": {"name": "resnet18_cifar"}, "train": {"penalty": {"lambda": 5.0}}}


def epoch_entry(epoch: int) -> dict:
    return {"epoch": epoch, "loss": 1.0 / epoch, "distances": {"layer1.0": 0.25}}


def train_and_fail() -> None:
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        raise ZeroDivisionError


def test_training_streams_its_epochs(project: Path) -> None:
    with live_training("shoal", "lacoot", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        assert runs_of("shoal-training")["lacoot"].info.status == "RUNNING"
        log(epoch_entry(2))
        log(epoch_entry(2))  # sent again: skipped
    run = runs_of("shoal-training")["lacoot"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["variant"] == "lacoot"
    assert run.data.params == {"model": "resnet18_cifar", "lambda": "5.0"}
    history = client().get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["distance.layer1.0"] == 0.25


def test_a_failed_training_is_marked_and_continued_by_the_next(project: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train_and_fail()
    failed = runs_of("shoal-training")["dense"]
    assert failed.info.status == "FAILED"
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        for epoch in (1, 2):
            log(epoch_entry(epoch))
    run = runs_of("shoal-training")["dense"]
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    history = client().get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2]


def test_a_finished_or_different_training_is_not_continued(project: Path) -> None:
    for key in ("abc", "abc", "def"):
        with live_training("shoal", f"dense-{time.monotonic_ns()}", key, CONFIGURATION) as log:
            log(epoch_entry(1))
    assert len(runs_of("shoal-training")) == 3


def test_a_store_that_is_away_does_not_stop_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        log(epoch_entry(2))
    assert capsys.readouterr().err.count("warning: not tracked") == 1


def test_a_store_lost_in_the_middle_is_one_warning(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        with sqlite3.connect("mlflow.db") as database:
            database.execute("drop table latest_metrics")
        database.close()
        log(epoch_entry(2))
        log(epoch_entry(3))
    assert capsys.readouterr().err.count("warning: not tracked") == 1


class Odd(BaseHTTPRequestHandler):
    """A server that is none of MLflow's: it gives every request the same answer."""

    status, body, headers_of_its_own, pause_s = 200, b"{}", {}, 0.0

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in self.headers_of_its_own.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        for byte in self.body:
            self.wfile.write(bytes([byte]))
            time.sleep(self.pause_s)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(**answer: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (Odd,), answer))
    server.handle_error = lambda *_: None  # the client goes away
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


ODD = {
    "429 for ever": {"status": 429, "headers_of_its_own": {"Retry-After": "120"}},
    "503 for ever": {"status": 503, "headers_of_its_own": {"Retry-After": "120"}},
    "a number": {"body": b'{"experiment": 5}'},
    "other types": {"body": b'{"experiment": {"experiment_id": [1], "tags": 7}}'},
    "nothing": {"body": b"{}"},
    "a list": {"body": b"[]"},
    "null": {"body": b"null"},
    "a text": {"body": b'"experiment"'},
    "a page": {"body": b"<html></html>"},
    "byte by byte": {"body": b" " * 9999, "pause_s": 0.1},
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_a_server_of_another_kind_is_one_warning_within_seconds(
    answer: dict, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a training, and of the stage `track`."""
    monkeypatch.setattr("pipeline.report.tracking.live.ANSWER_S", 1.0)
    monkeypatch.setattr("pipeline.report.tracking.client.MIRROR_S", 1.0)
    with serving(**answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
            log(epoch_entry(1))
        track_stage()
        assert time.monotonic() - started < 20
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(
        line.startswith("warning: not tracked: the MLflow store http://127") for line in told
    )
