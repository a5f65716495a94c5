"""The mirror: what a second one adds, and what it leaves."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from tracked import client, run_stage, runs_of, track, write_params, write_variant

from pipeline.core.records import read_record, write_record
from pipeline.report.failures import Failure
from pipeline.report.records import SUMMARY, Summary
from pipeline.report.tracking.mirror import as_text, mirror_failures


def test_a_second_mirror_adds_nothing(project: Path) -> None:
    first, second = track(), track()
    assert (first.added, first.present) == (6, 0)
    assert (second.added, second.present) == (0, 6)
    assert len(runs_of("shoal")) == 6


def test_a_changed_variant_adds_only_its_runs(project: Path) -> None:
    track()
    write_variant("lacoot", p50=15.0)
    report = track()
    assert (report.added, report.present) == (3, 3)


def test_a_row_of_the_report_that_changed_adds_a_run(project: Path) -> None:
    track()
    known = read_record(SUMMARY, Summary)
    first, *others = known.networks
    write_record(SUMMARY, replace(known, networks=[replace(first, params=1), *others]))
    assert track().added == 1


def test_a_removed_variant_is_not_read_and_its_runs_stay(project: Path) -> None:
    track()
    write_params("lacoot")
    Path("metrics/train/dense.json").unlink()
    report = track()
    assert (report.added, report.present) == (0, 3)
    assert len(runs_of("shoal")) == 6


def test_a_half_written_run_is_deleted_and_redone(project: Path) -> None:
    track()
    half = runs_of("shoal")["lacoot-l2-fp32"].info.run_id
    client().update_run(half, status="RUNNING")
    report = track()
    assert (report.added, report.present) == (1, 5)
    redone = runs_of("shoal")["lacoot-l2-fp32"]
    assert redone.info.run_id != half
    assert redone.info.status == "FINISHED"
    assert redone.data.params["level"] == "2"


def test_a_trashed_experiment_comes_back(project: Path) -> None:
    track()
    client().delete_experiment(client().get_experiment_by_name("shoal").experiment_id)
    assert track().present == 6


FAILURES = {
    "lacoot": Failure(
        "train", "![x](http://e.x/y) [c](javascript:z)\x1b[31m <b> | the loss is nan"
    ),
    "other": Failure("plan", "no level within the budget"),
}


def failed_runs() -> dict[str, Run]:
    found = client().get_experiment_by_name("shoal").experiment_id
    runs = client().search_runs([found], "attributes.status = 'FAILED'")
    return {run.data.tags["variant"]: run for run in runs}


def test_a_variant_that_failed_has_a_failed_run_until_it_has_not(project: Path) -> None:
    track()
    mirror_failures("shoal", FAILURES)
    first = failed_runs()
    assert first.keys() == FAILURES.keys()
    assert first["other"].data.tags["mlflow.note.content"] == "no level within the budget"
    mirror_failures("shoal", FAILURES)
    assert {run.info.run_id for run in failed_runs().values()} == {
        run.info.run_id for run in first.values()
    }
    mirror_failures("shoal", {"lacoot": Failure("score", "another reason")})
    assert [run.data.tags["failed_in"] for run in failed_runs().values()] == ["score"]
    mirror_failures("shoal", {})
    assert failed_runs() == {}
    assert track().present == 6


def test_what_others_wrote_is_shown_as_text() -> None:
    told = as_text(FAILURES["lacoot"].reason)
    assert told.isprintable()
    assert told.startswith(r"\!\[x\]\(http://e.x/y\) \[c\]\(javascript:z\) \[31m \<b\> \|")


def test_a_copied_project_writes_no_files_into_the_one_it_was_copied_from(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track()
    before = sorted(project.rglob("mlartifacts/**/*"))
    assert before
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("copy"))
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code, _, errors = run_stage("track")  # a process of its own: MLflow keeps a store open for good
    assert code == 0
    assert f"its files go to {project}/mlartifacts: move mlflow.db away" in errors
    Path("mlflow.db").unlink()
    assert run_stage("track")[1].startswith("6 runs in sqlite:///mlflow.db: 6 added")
    assert [path for path in before if not path.exists()] == []
    found = [path for path in project.rglob("mlartifacts/**/*") if copy not in path.parents]
    assert sorted(found) == before


def test_nothing_appears_outside_of_a_project_whose_path_is_percent_encoded(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "outside" / "a b #1 50%"
    shutil.copytree(project, odd, ignore=shutil.ignore_patterns("outside"))
    monkeypatch.chdir(odd)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _, output, errors = run_stage("track")
    assert ("champion of shoal: version 1" in output, errors) == (True, "")
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]
    assert any(odd.rglob("mlartifacts/**/model.onnx"))
