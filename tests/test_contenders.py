"""No engine is timed unless its own bytes passed their rung of the parity ladder."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proven_engines import verified, write_engines

from models.errors import ArtifactError
from models.hashing import file_sha256
from pipeline.contenders import contenders, not_timed
from pipeline.engines.machine import cuda_devices
from pipeline.params import Batch, Build

OPTIONS = Build(
    backends=["onnxruntime"], compute_capabilities=["8.6"], batch=Batch(min=1, opt=8, max=64)
)


@pytest.fixture
def metrics(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    built = write_engines(tmp_path)
    return built, verified(built, tmp_path), tmp_path


def engine_rungs(verified: dict[str, Any]) -> list[dict[str, Any]]:
    rungs = [rung for level in verified["levels"] for rung in level["rungs"]]
    return [rung for rung in rungs if rung["rung"] == "engine"]


def test_all_that_passed_is_timed_and_the_rest_is_listed_with_its_reason(metrics):
    built, proven, folder = metrics
    timed, refused = contenders("dense", built, proven, folder, OPTIONS)
    assert {(one.level, one.precision, one.backend) for one in timed} == {
        (level, precision, "onnxruntime") for level in range(3) for precision in ("fp32", "int8")
    }
    [deep] = [one for one in timed if (one.level, one.precision) == (2, "int8")]
    assert (deep.val_accuracy_pct, deep.test_accuracy_pct) == (88.75, 88.5)
    assert {(one.backend, one.precision): one.reason for one in refused} == {
        ("tensorrt_rtx", "fp32"): "parity not run: no CUDA device",
        ("onnxruntime", "bf16"): "not built: no bf16 convolution",
    }
    assert not_timed(built, timed, refused) == {
        "tensorrt": "not built: tensorrt is not installed",
        "tensorrt_rtx": "parity not run: no CUDA device",
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(statuses=st.lists(st.sampled_from(["passed", "failed", "not run", None, "other bytes"])))
def test_whatever_the_rungs_say_only_passed_bytes_are_timed(metrics, statuses):
    built, _, folder = metrics
    proven = verified(built, folder)
    allowed = set()
    rungs = engine_rungs(proven)
    for number, rung in enumerate(rungs):
        status = statuses[number] if number < len(statuses) else None
        rung["reason"] = "max_rel 2.0e-01 > 1e-02"
        rung["status"] = "passed" if status == "other bytes" else status
        rung["sha256"] = rung["sha256"] if status == "passed" else "0" * 64
        if status is None:
            rung["rung"] = "never climbed"
        if status == "passed" and rung["backend"] == "onnxruntime":
            allowed.add(rung["sha256"])
    timed, refused = contenders("dense", built, proven, folder, OPTIONS)
    assert {file_sha256(one.engine) for one in timed} == allowed
    assert all(one.reason for one in refused)
    assert len(timed) + len(refused) == len(rungs) + 3  # and bf16, that failed to build


def test_a_failed_rung_names_what_was_missed(metrics):
    built, proven, folder = metrics
    rung = engine_rungs(proven)[0]
    rung |= {"status": "failed", "reason": "cosine 0.51 < 0.97"}
    _, refused = contenders("dense", built, proven, folder, OPTIONS)
    assert "parity failed: cosine 0.51 < 0.97" in {one.reason for one in refused}


def test_an_engine_built_anew_has_to_be_verified_anew(metrics):
    built, proven, folder = metrics
    path = folder / built["levels"][1]["engines"]["fp32"]["onnxruntime"]["file"]
    path.write_bytes(path.read_bytes() + b"\0")
    timed, refused = contenders("dense", built, proven, folder, OPTIONS)
    assert path not in {one.engine for one in timed}
    [reason] = [one.reason for one in refused if (one.level, one.backend) == (1, "onnxruntime")][:1]
    assert reason.startswith("the engine has changed since its parity was checked")


def test_a_missing_engine_is_named(metrics):
    built, proven, folder = metrics
    (folder / "int8/onnxruntime/level_2.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"level_2\.onnx is missing; `dvc repro` makes it"):
        contenders("dense", built, proven, folder, OPTIONS)


def test_a_device_that_is_gone_since_the_ladder_was_climbed_is_told(metrics):
    built, proven, folder = metrics
    for rung in engine_rungs(proven):
        if rung["backend"] == "tensorrt_rtx":
            plan = next(folder.rglob("*.engine"))
            rung |= {"status": "passed", "sha256": file_sha256(plan)}
    timed, refused = contenders("dense", built, proven, folder, OPTIONS)
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    reasons = {one.reason for one in refused if one.backend == "tensorrt_rtx"}
    assert reasons == {"no CUDA device"}
    assert all(one.backend == "onnxruntime" for one in timed)
