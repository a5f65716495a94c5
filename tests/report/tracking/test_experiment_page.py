"""What surrounds the runs: the note, the saved views, the recommended run, the report."""

import json
from pathlib import Path

import pytest
from tracked import (
    MLFLOWS_WARNINGS,
    PIXEL,
    PLOTS,
    client,
    compared,
    run_of_the_report,
    runs_of,
    track,
)

from pipeline.report.tracking.experiment_page import NOTE, page, present
from pipeline.report.tracking.schema import Comparison

pytestmark = MLFLOWS_WARNINGS


@pytest.fixture
def comparison(project: Path) -> Comparison:
    track()
    return compared()


def changed(comparison: Comparison, **values: object) -> Comparison:
    return Comparison(**vars(comparison) | values)


def tags_of_the_experiment() -> dict[str, str]:
    return client().get_experiment_by_name("shoal").tags


def recommended() -> dict[str, str]:
    """The notes of the runs that are tagged, by name; and no other run has one."""
    runs = runs_of("shoal")
    noted = {name for name, run in runs.items() if NOTE in run.data.tags}
    tagged = {name for name, run in runs.items() if run.data.tags.get("recommended") == "true"}
    assert noted == tagged
    return {name: runs[name].data.tags[NOTE] for name in tagged}


def key_of(name: str) -> str:
    return runs_of("shoal")[name].data.tags["shoal.key"]


def test_the_recommended_run_says_so_and_why(mirrored: Path) -> None:
    ((name, reason),) = recommended().items()
    assert (name, reason) == ("dense-l1-fp32", compared().reason)
    assert reason.startswith("dense level 1, fp32 on onnxruntime: -1.00 points")


def test_another_recommendation_leaves_nothing_behind(comparison: Comparison) -> None:
    present("shoal", comparison)
    other = changed(comparison, recommended=key_of("lacoot-l2-fp32"), reason="cheaper")
    present("shoal", other)
    assert recommended() == {"lacoot-l2-fp32": "cheaper"}
    present("shoal", changed(comparison, recommended=None, reason="nothing fits"))
    assert recommended() == {}
    assert "**nothing fits**" in tags_of_the_experiment()[NOTE]


def test_the_note_tells_how_to_read_and_links_to_the_views(mirrored: Path) -> None:
    note = tags_of_the_experiment()[NOTE]
    assert note.startswith(f"**{compared().reason}**")
    assert "a batch of 128 on `backend`" in note
    assert f"({page('shoal')})" in note
    assert "(#/models/shoal)" in note


def test_a_note_of_someone_else_stays(comparison: Comparison) -> None:
    present("shoal", comparison)
    experiment = client().get_experiment_by_name("shoal")
    client().set_experiment_tag(experiment.experiment_id, NOTE, "ours since May")
    present("shoal", changed(comparison, reason="another"))
    assert tags_of_the_experiment()[NOTE] == "ours since May"


def test_the_view_shows_the_columns_that_decide_most_accurate_first(
    mirrored: Path,
) -> None:
    views = [key for key in tags_of_the_experiment() if key.startswith("mlflow.sharedViewState.")]
    assert views == ["mlflow.sharedViewState.shoal"]
    state = json.loads(json.loads(tags_of_the_experiment()[views[0]])["state"])
    logged = runs_of("shoal")["lacoot-l1-fp32"].data
    names = [column.split("`")[1] for column in state["selectedColumns"]]
    assert names[:3] == ["accuracy_val_pct", "accuracy_test_pct", "latency_ms"]
    assert set(names) - {"Models", "recommended"} <= set(logged.metrics) | set(logged.params)
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`accuracy_val_pct`", False)


def test_a_latency_budget_is_a_view_of_its_own(comparison: Comparison) -> None:
    present("shoal", changed(comparison, latency_budget_ms=3.5))
    tags = tags_of_the_experiment()
    view = json.loads(tags["mlflow.sharedViewState.shoal-budget"])
    assert view["name"] == "Within 3.5 ms"
    assert json.loads(view["state"])["searchFilter"] == "metrics.latency_ms <= 3.5"
    assert "[within 3.5 ms](#/experiments/" in tags[NOTE]


def test_the_report_is_in_one_run_and_up_to_date(comparison: Comparison, project: Path) -> None:
    present("shoal", comparison)
    run = run_of_the_report()
    assert run.info.status == "FINISHED"
    stored = project / "mlartifacts" / run.info.run_id / "artifacts/report"
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == dict.fromkeys(
        PLOTS, PIXEL
    )
    html = Path("reports/index.html")
    html.write_text("<h1>new</h1>")
    present("shoal", changed(comparison, report=[*comparison.report, html]))
    assert run_of_the_report().info.run_id == run.info.run_id
    assert (stored / "index.html").read_text() == "<h1>new</h1>"
    link = f"runs/{run.info.run_id}/artifacts/report/index.html"
    assert link in tags_of_the_experiment()[NOTE]


def test_a_killed_upload_of_the_report_is_taken_up_again(
    comparison: Comparison, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.tracking.client.MlflowClient.log_artifact", killed)
        with pytest.raises(KeyboardInterrupt):
            present("shoal", comparison)
    present("shoal", comparison)
    experiment = client().get_experiment_by_name("shoal")
    (run,) = client().search_runs([experiment.experiment_id], "attributes.run_name = 'report'")
    assert run.info.status == "FINISHED"
    stored = project / "mlartifacts" / run.info.run_id / "artifacts/report"
    assert sorted(file.name for file in stored.iterdir()) == PLOTS


def test_before_anything_is_tracked_there_is_no_page(project: Path) -> None:
    assert page("shoal") is None
