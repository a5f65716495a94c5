"""What MLflow holds of a variant: every column, setting and reason."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tracked import record_in_lock, runs_of, track, write_params, write_variant

from models.errors import ArtifactError
from pipeline.core.artifacts import write_json
from pipeline.core.params import Choose, load_params
from pipeline.core.records import read_record, write_record
from pipeline.report.failures import Failure
from pipeline.report.metrics import STAGES
from pipeline.report.records import SUMMARY, Summary
from pipeline.report.tracking.dvc_lock import locked_stages
from pipeline.report.tracking.runs import read_runs, state


def test_a_run_has_the_numbers_that_decide_at_the_top(mirrored: Path) -> None:
    runs = runs_of("shoal")
    assert sorted(runs) == [f"{v}-l{level}-fp32" for v in ("dense", "lacoot") for level in range(3)]
    summary = read_record(mirrored / SUMMARY, Summary)
    for row in summary.networks:
        engine = summary.engines_by_network[row.key]["onnxruntime"]
        metrics = runs[f"{row.variant}-l{row.level}-fp32"].data.metrics
        decisive = {name: value for name, value in metrics.items() if "/" not in name}
        assert decisive == {
            "accuracy_test_pct": row.test_accuracy_pct,
            "accuracy_val_pct": row.val_accuracy_pct,
            "latency_ms": engine.quiet_ms,
            "macs": row.macs,
            "params": row.params,
            "removed_blocks": row.level,
            "size_bytes": engine.bytes,
            "train_seconds": 12.4,
        }


def test_details_are_under_prefixes_and_few(mirrored: Path) -> None:
    metrics = runs_of("shoal")["lacoot-l1-fp32"].data.metrics
    assert {name: value for name, value in metrics.items() if "/" in name} == {
        "latency_onnxruntime/batch_1_ms": 0.75,
        "parity/max_abs": 1e-6,
        "parity/top1_agreement": 1.0,
        "repairs/batch_norm_val_pct": 90.25,
        "repairs/healed_val_pct": 90.75,
        "repairs/removed_val_pct": 89.0,
    }


def test_the_row_and_the_metrics_of_the_level_are_attached(mirrored: Path) -> None:
    run = runs_of("shoal")["lacoot-l1-fp32"]
    stored = mirrored / "mlartifacts" / run.info.run_id / "artifacts/metrics.json"
    details = json.loads(stored.read_text())
    summary = json.loads((mirrored / SUMMARY).read_text())
    assert details["network"] in summary["networks"]
    assert (details["network"]["variant"], details["network"]["level"]) == ("lacoot", 1)
    assert [engine["backend"] for engine in details["engines"]] == ["onnxruntime", "tensorrt_rtx"]
    assert set(details["stages"]) == set(STAGES)
    assert {engine["level"] for engine in details["stages"]["build"]["engines"]} == {1}
    assert {check["level"] for check in details["stages"]["verify"]["checks"]} == {1}
    assert details["stages"]["train"]["images_per_s"] == 4000.0


def test_a_run_holds_what_made_it_and_reasons(mirrored: Path) -> None:
    run = runs_of("shoal")["lacoot-l1-fp32"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "backend": "onnxruntime",
        "criterion": "msw",
        "epochs": "1",
        "lambda": "5.0",
        "level": "1",
        "model": "resnet18_cifar",
        "precision": "fp32",
        "projections": "50",  # written under the variant in params.yaml
        "removed": "layer1.0",
        "replacement": "linear",
        "search": "one_shot",
        "seed": "0",
        "shipped": "healed",
        "strategy": "penalty",
        "variant": "lacoot",
    }
    assert run.data.tags["chosen_level"] == "true"
    assert run.data.tags["shoal.group"] == state("lacoot", locked_stages())
    assert run.data.tags["not_timed.tensorrt_rtx"] == "no CUDA device"
    assert run.data.tags["not_available.tensorrt"] == "not installed"
    assert not any(key.startswith("mlflow.parentRunId") for key in run.data.tags)


def test_the_latency_is_that_of_the_fastest_backend_or_of_the_one_to_choose_by(
    project: Path,
) -> None:
    known = read_record(SUMMARY, Summary)
    first, *others = known.engines
    timed = [replace(first, quiet_ms=4.0), replace(first, quiet_ms=3.0, backend="openvino")]
    write_record(SUMMARY, replace(known, engines=[*timed, *others]))
    params = load_params()
    one = params.model_copy(update={"choose": Choose(backend="onnxruntime")})
    other = params.model_copy(update={"choose": Choose(backend="tensorrt")})
    fastest, wanted, untimed = (read_runs(given)[0] for given in (params, one, other))
    assert (fastest.params["backend"], fastest.metrics["latency_ms"]) == ("openvino", 3.0)
    assert (wanted.params["backend"], wanted.metrics["latency_ms"]) == ("onnxruntime", 4.0)
    assert untimed.params["backend"] == "not timed"
    assert "latency_ms" not in untimed.metrics
    assert len({fastest.key, wanted.key, untimed.key}) == 3


def test_a_run_names_its_data(mirrored: Path) -> None:
    run = runs_of("shoal")["dense-l0-fp32"]
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "fashion_mnist"
    assert len(entry.dataset.digest) == 16
    assert json.loads(entry.dataset.profile) == {
        "num_rows": 15,
        "train": 11,
        "validation": 2,
        "test": 2,
        "classes": 2,
    }


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
    states = [state("lacoot", locked_stages())]
    record_in_lock("benchmark@dense", "other")
    record_in_lock("report", "other")
    assert state("lacoot", locked_stages()) == states[0]
    for stage in ("collapse@lacoot", "prepare"):
        record_in_lock(stage, "other")
        states.append(state("lacoot", locked_stages()))
    Path("dvc.lock").unlink()  # the stages were run by hand
    states.append(state("lacoot", locked_stages()))
    write_variant("lacoot", p50=14.0)
    Path("dvc.lock").unlink()
    write_json(Path("metrics/plan/lacoot.json"), {"levels": []})
    states.append(state("lacoot", locked_stages()))
    assert len(set(states)) == len(states)


def test_a_variant_that_failed_has_no_runs(project: Path) -> None:
    write_params("dense", "lacoot", "unseen")
    known = read_record(SUMMARY, Summary)
    failures = {"unseen": Failure("train", "the loss is nan")}
    write_record(SUMMARY, replace(known, failures=failures))
    assert {run.tags["variant"] for run in read_runs(load_params())} == {"dense", "lacoot"}


def test_missing_inputs_are_named(project: Path) -> None:
    write_params("dense", "unseen")
    with pytest.raises(ArtifactError, match=r"no row of variant 'unseen'"):
        read_runs(load_params())
    Path("dvc.lock").write_text("<<<<<<< HEAD\n\t: :")
    with pytest.raises(ArtifactError, match=r"dvc.lock is not valid YAML"):
        state("dense", locked_stages())
