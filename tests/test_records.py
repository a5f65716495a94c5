"""What MLflow is told of a variant: every column, setting and reason."""

import json
import subprocess
from pathlib import Path

import pytest
from tracked import (
    PIXEL,
    PLOTS,
    client,
    record_in_lock,
    runs_of,
    track,
    write_params,
    write_variant,
)

from models.errors import ArtifactError
from pipeline.artifacts import write_json
from pipeline.params import load_params
from pipeline.records import STAGES, read_runs, state
from pipeline.runs import flat_numbers

# SQLAlchemy tells MLflow's authors, not us, that one of its loader strategies goes away.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_every_column_of_the_summary_is_in_the_runs(project: Path) -> None:
    track()
    runs = runs_of("shoal")
    rows = json.loads((project / "reports/summary.json").read_text())["rows"]
    assert sorted(runs) == [f"{v}-l{level}-fp32" for v in ("dense", "lacoot") for level in range(3)]
    texts = {"variant", "precision", "removed", "removed_in_training", "replacement", "shipped"}
    for row in rows:
        data = runs[f"{row['variant']}-l{row['level']}-fp32"].data
        assert data.tags["variant"] == row["variant"]
        assert data.params["removed"] == (", ".join(row["removed"]) or "none")
        columns = {key: value for key, value in row.items() if key not in texts}
        for name, value in flat_numbers(columns).items():
            assert data.metrics[name] == value, name
        for column in columns:
            assert any(name.split(".")[0] == column for name in data.metrics), column


def test_a_run_holds_settings_measurements_and_reasons(project: Path) -> None:
    track()
    run = runs_of("shoal")["lacoot-l1-fp32"]
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "resnet18_cifar"
    assert run.data.params["model.width"] == "16"
    assert run.data.params["lambda"] == "5.0"
    assert run.data.params["trained_in"] == "bfloat16"
    assert run.data.params["precision"] == "fp32"
    assert run.data.params["criterion"] == "msw"
    assert run.data.params["search"] == "one_shot"
    assert run.data.params["replacement"] == "linear"
    assert run.data.params["shipped"] == "healed"
    assert run.data.params["method.mode"] == "paper"
    assert run.data.metrics["removed_blocks"] == 1
    assert run.data.metrics["chosen"] == 1
    assert run.data.metrics["val_accuracy_bn_pct"] == 90.25
    assert run.data.metrics["val_accuracy_healed_pct"] == 90.75
    assert run.data.metrics["healing.seconds"] == 3.5
    assert run.data.metrics["parity.max_abs"] == 1e-6
    assert run.data.metrics["latency_ms.onnxruntime.batch_1.p50"] == 0.75
    assert run.data.metrics["images_per_s.onnxruntime.batch_1"] == 1300.0
    assert run.data.metrics["build_seconds.onnxruntime"] == 0.5
    assert run.data.tags["level"] == "1"
    assert run.data.tags["shoal.group"] == state("lacoot")
    assert run.data.tags["not_timed.tensorrt_rtx"] == "no CUDA device"
    assert run.data.tags["not_available.tensorrt"] == "not installed"
    assert not any(key.startswith("mlflow.parentRunId") for key in run.data.tags)


def test_a_run_names_its_data_and_carries_plots_and_metrics(project: Path) -> None:
    track()
    run = runs_of("shoal")["dense-l0-fp32"]
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "fashion_mnist"
    assert len(entry.dataset.digest) == 16
    assert json.loads(entry.dataset.profile) == {
        "num_rows": 13,
        "train": 11,
        "test": 2,
        "classes": 2,
    }
    files = client().list_artifacts(run.info.run_id, "plots")
    assert [file.path for file in files] == [f"plots/{name}" for name in PLOTS]
    stored = project / "mlartifacts" / run.info.run_id / "artifacts"
    assert (stored / "plots" / PLOTS[0]).read_bytes() == PIXEL
    for stage in STAGES:
        assert (stored / "metrics" / stage / "dense.json").is_file()


def test_the_commit_is_a_tag_inside_a_repository_only(project: Path) -> None:
    track()
    assert "git_commit" not in runs_of("shoal")["dense-l0-fp32"].data.tags
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (run, *_) = read_runs(load_params())
    assert run.tags["git_commit"] == head.stdout.strip()


def test_state_follows_the_lock_entries_of_the_variant_and_prepare(project: Path) -> None:
    states = [state("lacoot")]
    record_in_lock("benchmark@dense", "other")
    record_in_lock("report", "other")
    assert state("lacoot") == states[0]
    for stage in ("collapse@lacoot", "prepare"):
        record_in_lock(stage, "other")
        states.append(state("lacoot"))
    Path("dvc.lock").unlink()  # the stages were run by hand
    states.append(state("lacoot"))
    write_variant("lacoot", p50=14.0)
    Path("dvc.lock").unlink()
    write_json(Path("metrics/plan/lacoot.json"), {"levels": []})
    states.append(state("lacoot"))
    assert len(set(states)) == len(states)


def test_a_variant_that_failed_has_no_runs(project: Path) -> None:
    write_params("dense", "lacoot", "unseen")
    summary = json.loads(Path("reports/summary.json").read_text())
    failed = {"unseen": {"stage": "train", "reason": "the loss is nan"}}
    write_json(Path("reports/summary.json"), summary | {"failures": failed})
    assert {run.tags["variant"] for run in read_runs(load_params())} == {"dense", "lacoot"}


def test_missing_inputs_are_told(project: Path) -> None:
    write_params("dense", "unseen")
    with pytest.raises(ArtifactError, match=r"no row of variant 'unseen'"):
        read_runs(load_params())
    Path("dvc.lock").write_text("<<<<<<< HEAD\n\t: :")
    with pytest.raises(ArtifactError, match=r"dvc.lock is not valid YAML"):
        state("dense")
