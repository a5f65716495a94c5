"""The record of variants that failed, and what the report makes of it."""

import json
import threading
from pathlib import Path

import pytest

from models.errors import ArtifactError
from pipeline.core.artifacts import write_json
from pipeline.report.failures import (
    FAILED,
    Failure,
    read_failures,
    record,
    still_failed,
    with_numbers,
)

NAN = Failure("train", "the loss is nan")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_entry_comes_with_a_failure_and_goes_with_success() -> None:
    assert read_failures() == {}
    record("b", NAN)
    record("a", Failure("heal", "x"))
    assert list(json.loads(FAILED.read_text())) == ["a", "b"]
    record("a", None)
    record("c", None)
    assert read_failures() == {"b": NAN}


def test_threads_do_not_lose_each_others_entries() -> None:
    names = [f"v{n}" for n in range(20)]
    threads = [threading.Thread(target=record, args=(name, NAN)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_failures()) == sorted(names)


def test_a_failure_stands_until_its_stage_has_metrics() -> None:
    write_json(Path("metrics/train/a.json"), {"from": "an earlier run"})
    record("a", NAN)
    record("b", Failure("bundle", "the disk is full"))
    assert not Path("metrics/train/a.json").exists()
    assert still_failed(["a", "b", "other"]) == read_failures()
    assert with_numbers(["a", "b", "whole"])[0] == ["b", "whole"]
    write_json(Path("metrics/train/a.json"), {})
    assert still_failed(["a", "b"]) == {"b": Failure("bundle", "the disk is full")}
    assert still_failed(["a"]) == {}


@pytest.mark.parametrize(
    ("stage", "proof"), [("yardstick", "plan"), ("dvc", "verify"), ("slurm", "verify")]
)
def test_a_failure_without_metrics_stands_until_a_later_stage_has_some(
    stage: str, proof: str
) -> None:
    metrics = Path(f"metrics/{proof}/a.json")
    write_json(metrics, {"from": "an earlier run"})
    record("a", Failure(stage, "x"))
    assert not metrics.exists()
    assert set(still_failed(["a"])) == {"a"}
    write_json(metrics, {})
    assert still_failed(["a"]) == {}


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": {"stage": "train"}}'])
def test_a_damaged_record_is_named(content: str) -> None:
    FAILED.parent.mkdir()
    FAILED.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"metrics/failed.json is not as this version"):
        read_failures()


def test_where_all_failed_there_is_no_report() -> None:
    record("a", NAN)
    assert with_numbers(["dense", "a"]) == (["dense"], {"a": NAN})
    with pytest.raises(ArtifactError, match="all variants failed, such as a at train: the"):
        with_numbers(["a"])
