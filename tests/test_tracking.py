"""The mirror: what a second one adds, and what it leaves."""

import json
from pathlib import Path

import pytest
from tracked import (
    client,
    runs_of,
    track,
    write_params,
    write_variant,
)

from pipeline.artifacts import write_json

# SQLAlchemy tells MLflow's authors, not us, that one of its loader strategies goes away.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


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


def test_a_new_column_of_the_report_adds_runs(project: Path) -> None:
    track()
    summary = json.loads(Path("reports/summary.json").read_text())
    summary["rows"][0]["energy_mj"] = 1.5
    write_json(Path("reports/summary.json"), summary)
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
