"""The live stream of a training, against real SQLite stores."""

import sqlite3
import time
from pathlib import Path

import pytest
from tracked import client, runs_of

from pipeline.tracking import live_training

# SQLAlchemy tells MLflow's authors, not us, that one of its loader strategies goes away.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


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


def test_a_store_lost_in_the_middle_is_told_once(
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
