"""What is recommended as a registered model: once per bytes, under one alias, and back again."""

import json
from dataclasses import replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from tracked import MLFLOWS_WARNINGS, client, graph_bytes, run_verb, runs_of

from models.errors import ArtifactError
from pipeline.core.params import Choose
from pipeline.core.records import read_record, write_record
from pipeline.report.recommendation import choose
from pipeline.report.records import SUMMARY, Summary
from pipeline.report.tracking.registry import CHAMPION, download
from pipeline.report.tracking.store import TrackingError
from stages.track import main as track

pytestmark = MLFLOWS_WARNINGS

Captured = pytest.CaptureFixture[str]


def recommend(limits: Choose) -> None:
    """Choose anew among the rows of reports/summary.json, as `report` does."""
    known = read_record(SUMMARY, Summary)
    choice = choose(known.networks, known.engines, limits)
    write_record(SUMMARY, replace(known, recommendation=choice))


def champion():
    return client().get_model_version_by_alias("shoal", CHAMPION)


def test_the_choice_is_the_champion_and_comes_back_byte_by_byte(
    project: Path, capsys: Captured
) -> None:
    track()
    assert "champion of shoal: version 1, dense-l1-fp32 (added)" in capsys.readouterr().out
    version = champion()
    assert (version.tags["variant"], version.tags["level"]) == ("dense", "1")
    assert version.description.startswith("dense level 1, fp32 on onnxruntime")
    assert "version 1 of shoal" in download("shoal", project / "model")
    expected = {
        "model.onnx": graph_bytes(),
        "engines/onnxruntime.onnx": b"onnxruntime dense 1",
        "engines/tensorrt_rtx.engine": b"tensorrt_rtx dense 1",
    }
    hashes = json.loads((project / "model/sha256.json").read_text())
    assert hashes == {name: sha256(content).hexdigest() for name, content in expected.items()}
    for name, content in expected.items():
        assert (project / "model" / name).read_bytes() == content
    download("shoal", project / "model")  # replaces it


def test_every_shipped_engine_is_a_model_and_what_was_measured_is_linked_to_its_own(
    project: Path,
) -> None:
    track()
    track()
    (experiment,) = {run.info.experiment_id for run in runs_of("shoal").values()}
    models = {m.name: m for m in client().search_logged_models([experiment])}
    backends = {
        "dense-l1-fp32-onnxruntime": "onnxruntime",
        "dense-l1-fp32-tensorrt_rtx": "tensorrt_rtx",
    }
    assert set(models) == {"dense-l1-fp32", *backends}
    assert {name: models[name].tags["backend"] for name in backends} == backends
    run = runs_of("shoal")["dense-l1-fp32"]
    for name in ("dense-l1-fp32", "dense-l1-fp32-onnxruntime"):
        assert {m.key: m.value for m in models[name].metrics} == run.data.metrics
        (data,) = {(m.dataset_name, m.dataset_digest) for m in models[name].metrics}
        assert data == tuple(
            getattr(run.inputs.dataset_inputs[0].dataset, key) for key in ("name", "digest")
        )
    assert not models["dense-l1-fp32-tensorrt_rtx"].metrics  # it was not timed here
    for key in run.data.metrics:
        assert len(client().get_metric_history(run.info.run_id, key)) == 1
    assert len(run.outputs.model_outputs) == 3


def test_the_graph_is_a_model_of_mlflow_with_signature_and_example(project: Path) -> None:
    track()
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(f"models:/shoal@{CHAMPION}")
    (given,), (wanted,) = model.metadata.signature.inputs, model.metadata.signature.outputs
    assert (given.type, given.shape, wanted.shape) == (np.float32, (-1, 1, 12, 12), (-1, 5))
    example = model.input_example
    assert model.predict(np.repeat(example, 3, axis=0))["logits"].shape == (3, 5)


def test_the_version_of_onnxruntime_is_known_whichever_package_brought_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = metadata.Distribution.from_name

    def without_onnxruntime(name: str) -> metadata.Distribution:
        if name == "onnxruntime":  # as where onnxruntime-gpu is installed
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", without_onnxruntime)
    track()
    import onnxruntime

    (requirements,) = Path("mlartifacts").rglob("requirements.txt")
    assert f"onnxruntime=={onnxruntime.__version__}" in requirements.read_text().splitlines()


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_store(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track()
    Path("artifacts/build/dense/fp32/tensorrt_rtx/level_1.engine").write_bytes(b"built again")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(project / "params.yaml"))
        with pytest.raises(NotADirectoryError):
            track()
    assert int(champion().version) == 1
    with pytest.raises(NotADirectoryError):
        download("shoal", project / "params.yaml" / "model" / "here")


def test_the_same_bytes_are_registered_once(project: Path, capsys: Captured) -> None:
    track()
    track()
    assert "version 1, dense-l1-fp32 (already there)" in capsys.readouterr().out
    assert len(client().search_model_versions("name = 'shoal'")) == 1


def test_the_alias_follows_the_choice_and_comes_back(project: Path) -> None:
    track()
    for limits, level, version in (
        (Choose(max_accuracy_drop_pct=0.5), 0, 2),
        (Choose(max_accuracy_drop_pct=1.0), 1, 1),
    ):
        recommend(limits)
        track()
        assert (champion().tags["level"], int(champion().version)) == (str(level), version)


def test_new_bytes_are_a_new_version(project: Path) -> None:
    track()
    Path("artifacts/build/dense/fp32/tensorrt_rtx/level_1.engine").write_bytes(b"built again")
    track()
    assert int(champion().version) == 2


def test_where_nothing_is_recommended_there_is_no_champion(project: Path, capsys: Captured) -> None:
    track()
    recommend(Choose(latency_budget_ms=0.001))
    track()
    assert "no champion of shoal: nothing to recommend" in capsys.readouterr().out
    assert client().get_registered_model("shoal").aliases == {}
    with pytest.raises(TrackingError, match="no 'champion' of 'shoal'"):
        download("shoal", project / "model")


def test_a_project_without_a_recommendation_registers_nothing(project: Path) -> None:
    recommend(Choose(latency_budget_ms=0.001))
    track()
    assert client().search_registered_models() == []


def test_a_missing_engine_is_one_warning(project: Path, capsys: Captured) -> None:
    Path("artifacts/build/dense/fp32/tensorrt_rtx/level_1.engine").unlink()
    track()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: nothing registered: artifacts/build/dense")
    assert "dvc pull" in line


@pytest.mark.parametrize("kind", ["precision", "engine"])
def test_what_changed_since_it_was_proven_is_not_registered(
    project: Path, capsys: Captured, kind: str
) -> None:
    path = project / "metrics" / "verify" / "dense.json"
    verified = json.loads(path.read_text())
    for check in verified["checks"]:
        check["sha256"] = "of other bytes" if check["check"] == kind else None
    path.write_text(json.dumps(verified))
    track()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: nothing registered: artifacts/")
    assert "has changed since its parity was checked; run `dvc repro`" in line


def test_bytes_that_changed_in_the_store_are_named(project: Path) -> None:
    track()
    (stored,) = Path("mlartifacts").rglob("tensorrt_rtx.engine")
    stored.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"engines/tensorrt_rtx.engine of models:/shoal/1 is"):
        download("shoal", project / "model")
    assert not (project / "model").exists()


def edit(name: str, content: str) -> None:
    """Let a file of the version in the store have other content."""
    (graph,) = Path("mlartifacts").rglob("model.onnx")
    (graph.parent / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("MLmodel", "flavors: {python_function: {loader_module: os}}"),
        ("extra.py", "print()"),
        ("engines/more.engine", ""),
        ("requirements.txt", "another"),
    ],
)
@pytest.mark.usefixtures("project")
def test_every_file_is_compared_with_what_was_registered(name: str, content: str) -> None:
    track()
    edit(name, content)
    with pytest.raises(ArtifactError, match=rf"{name} of models:/shoal/1 is not what was regist"):
        download("shoal", Path("model"))
    assert not Path("model").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "{", "null", '{"model.onnx": 1}', '{"../x": "0"}'])
@pytest.mark.usefixtures("project")
def test_hashes_that_are_none_are_one_message(content: str) -> None:
    track()
    edit("sha256.json", content)
    with pytest.raises(ArtifactError, match=r"models:/shoal/1 .*`python -m stages.track`"):
        download("shoal", Path("model"))


def test_a_download_spares_folders_of_others(project: Path) -> None:
    with pytest.raises(ArtifactError, match="is no earlier download"):
        download("shoal", project / "metrics")
    assert (project / "metrics/prepare.json").exists()


def test_the_verb_downloads_an_alias(project: Path) -> None:
    track()
    code, output, errors = run_verb("download", CHAMPION, "--into", "there")
    assert (code, errors) == (0, "")
    assert output == "there: version 1 of shoal, every file as it was registered\n"
    code, _, errors = run_verb("download", "other", "--into", "elsewhere")
    assert code == 1
    assert "no 'other' of 'shoal'" in errors
