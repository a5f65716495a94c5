"""No engine is timed unless its own bytes passed their check of the parity chain."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proven_engines import OPTIONS, VariantMetrics, write_variant

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.benchmark.proven_engines import Engines, proven_engines
from pipeline.core.hardware import cuda_devices


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VariantMetrics:
    monkeypatch.chdir(tmp_path)
    return write_variant()


def found(metrics: VariantMetrics) -> Engines:
    metrics.write()
    return proven_engines(["dense"], OPTIONS)


def test_all_that_passed_is_timed_and_the_rest_is_listed_with_its_reason(metrics):
    engines = found(metrics)
    assert {(one.level, one.precision, one.backend) for one in engines.proven} == {
        (level, precision, "onnxruntime") for level in range(3) for precision in ("fp32", "int8")
    }
    [deep] = [one for one in engines.proven if (one.level, one.precision) == (2, "int8")]
    assert (deep.val_accuracy_pct, deep.test_accuracy_pct) == (88.75, 88.5)
    assert deep.removed == ("layer1.0", "layer2.1")
    assert deep.graph == Path("artifacts/precision/dense/int8/level_2.onnx")
    assert {(one.backend, one.precision): one.reason for one in engines.skipped} == {
        ("tensorrt_rtx", "fp32"): "parity not run: no CUDA device",
        ("onnxruntime", "bf16"): "not built: no bf16 convolution",
    }
    assert engines.not_timed() == {
        "tensorrt": "not built: tensorrt is not installed",
        "tensorrt_rtx": "parity not run: no CUDA device",
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(statuses=st.lists(st.sampled_from(["passed", "failed", "not run", None, "other bytes"])))
def test_whatever_the_checks_report_only_passed_bytes_are_timed(metrics, statuses):
    allowed, checks = set(), []
    for number, check in enumerate(metrics.verified.checks):
        status = statuses[number] if number < len(statuses) else None
        if status is not None:  # else the engine was never checked
            outcome = "passed" if status == "other bytes" else status
            sha256 = check.sha256 if status == "passed" else "0" * 64
            reason = "max_rel 2.0e-01 > 1e-02"
            checks.append(replace(check, status=outcome, sha256=sha256, reason=reason))
        if status == "passed" and check.backend == "onnxruntime":
            allowed.add(check.sha256)
    verified = replace(metrics.verified, checks=checks)
    engines = found(replace(metrics, verified=verified))
    assert {file_sha256(one.engine) for one in engines.proven} == allowed
    assert all(one.reason for one in engines.skipped)
    built = len(metrics.built.engines) + len(metrics.built.missing)
    assert len(engines.proven) + len(engines.skipped) == built


def test_a_failed_check_names_what_was_missed(metrics):
    failed = metrics.with_check(
        *(0, "fp32", "onnxruntime"), status="failed", reason="cosine 0.51 < 0.97"
    )
    reasons = {one.reason for one in found(failed).skipped}
    assert "parity failed: cosine 0.51 < 0.97" in reasons


def test_an_engine_built_anew_has_to_be_verified_anew(metrics):
    path = Path("artifacts/build/dense/fp32/onnxruntime/level_1.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    engines = found(metrics)
    assert path not in {one.engine for one in engines.proven}
    [skipped] = [one for one in engines.skipped if one.key == ("dense", 1, "fp32", "onnxruntime")]
    assert skipped.reason.startswith("the engine has changed since its parity was checked")


def test_a_missing_file_or_record_is_named(metrics):
    Path("artifacts/build/dense/int8/onnxruntime/level_2.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"level_2\.onnx is missing; `dvc repro` makes it"):
        found(metrics)
    no_graphs = replace(metrics, typed=replace(metrics.typed, graphs=[]))
    with pytest.raises(ArtifactError, match="have no fp32 graph of level 0"):
        found(no_graphs)


def test_a_device_that_is_missing_since_verify_is_named(metrics):
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    plan = file_sha256(Path("artifacts/build/dense/fp32/tensorrt_rtx/level_0.engine"))
    passed = {"status": "passed", "val_accuracy_pct": 90.0, "test_accuracy_pct": 90.0}
    for level in range(3):
        metrics = metrics.with_check(level, "fp32", "tensorrt_rtx", sha256=plan, **passed)
    engines = found(metrics)
    reasons = {one.reason for one in engines.skipped if one.backend == "tensorrt_rtx"}
    assert reasons == {"no CUDA device"}
    assert all(one.backend == "onnxruntime" for one in engines.proven)
