"""The path to the GPU, as far as a machine without one allows.

The CUDA driver is a small C library whose device memory is the host's, and TensorRT a module that
computes with ONNX Runtime: the order of calls, shapes, batches, addresses and messages are real.
"""

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import fake_tensorrt
import pytest
from device_side import assert_one_message, run
from places import ROOT
from tiny_onnx import write_network

FAKES = Path(__file__).parent


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with a GPU of compute capability 8.7 and TensorRT."""
    folder = tmp_path_factory.mktemp("device")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "libcuda.so.1"
    source = FAKES / "fake_cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    shutil.copy(FAKES / "fake_tensorrt.py", folder / "tensorrt.py")
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder), "FAKE_CC": "8.7"}


def build(folder: Path) -> None:
    """Leave a plan that was built on the device: its graph, which the fake runs."""
    (folder / "built").mkdir()
    shutil.copy(folder / "model.onnx", folder / "built" / "tensorrt.plan")


def test_a_plan_built_on_the_device_gives_the_golden_logits_in_its_batches(
    python: Path, unpacked: Path, device: dict[str, str], tmp_path: Path
) -> None:
    build(unpacked)
    report = tmp_path / "checks.json"
    arguments = ("--backend", "tensorrt", "--report", str(report))
    done = run(python, unpacked / "verify.py", *arguments, **device)
    assert done.returncode == 0, done.stderr + done.stdout
    (check,) = json.loads(report.read_text())
    assert check["status"] == "passed"
    assert check["max_rel"] < 1e-6
    sample = str(unpacked / "samples" / "sample_coat.png")
    answers = [
        json.loads(run(python, unpacked / "run.py", sample, "--json", *backend, **device).stdout)
        for backend in ((), ("--backend", "onnxruntime"))
    ]
    assert [answer["backend"] for answer in answers] == ["tensorrt", "onnxruntime"]
    first, second = (answer["classes"][0] for answer in answers)
    assert first["class"] == second["class"]
    assert first["probability"] == pytest.approx(second["probability"], rel=1e-5)


TOOL = """#!/usr/bin/env bash
touch built/tensorrt.timing.lock
for argument in "$@"; do
    [[ $argument == --saveEngine=* ]] && cp "$PLAN" "${argument#*=}"
done
exit 0
"""


def test_a_plan_that_fails_its_proof_is_not_kept(
    python: Path, unpacked: Path, device: dict[str, str], tmp_path: Path
) -> None:
    """And one that passes is, even after another that failed."""
    (tmp_path / "trtexec").write_text(TOOL)
    (tmp_path / "trtexec").chmod(0o755)
    write_network(tmp_path / "other.onnx", depth=2, seed=1)

    def rebuild(plan: Path) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}{os.pathsep}{python.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "PLAN": str(plan), **device}
        command = ["bash", str(unpacked / "rebuild.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    kept, passed = unpacked / "built/tensorrt.plan", unpacked / "model.onnx"
    for plan in (tmp_path / "other.onnx", passed, tmp_path / "other.onnx"):
        done = rebuild(plan)
        assert (done.returncode == 0) == (plan == passed), done.stderr + done.stdout
        assert (plan == passed) == ("built/tensorrt.plan is ready" in done.stdout)
        assert not kept.with_name("tensorrt.plan.new").exists()
    assert kept.read_bytes() == passed.read_bytes()
    arguments = ("--backend", "tensorrt")
    assert run(python, unpacked / "verify.py", *arguments, **device).returncode == 0
    kept.write_bytes((tmp_path / "other.onnx").read_bytes())
    sample = str(unpacked / "samples" / "sample_coat.png")
    done = run(python, unpacked / "run.py", sample, *arguments, **device)
    assert_one_message(done, "cannot open tensorrt.plan, built with another version")  # the shipped
    done = run(python, unpacked / "verify.py", *arguments, **device)
    assert_one_message(done, "must not be used here")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"FAKE_CC": "7.5"},
            "tensorrt.plan is for compute capability 8.0+; Fake is 7.5: build a plan here with "
            "bash rebuild.sh",
        ),
        ({"FAKE_DEVICES": "0"}, "tensorrt: no CUDA device"),
        ({"PYTHONPATH": ""}, "tensorrt is not installed (No module named 'tensorrt')"),
        ({}, "tensorrt 10.0.0 cannot open tensorrt.plan, built with another version"),
        ({}, "bash rebuild.sh (Serialization assertion failed)"),
    ],
)
def test_a_plan_that_cannot_run_here_is_reported_in_one_line(
    python: Path,
    unpacked: Path,
    device: dict[str, str],
    environment: dict[str, str],
    message: str,
) -> None:
    sample = str(unpacked / "samples" / "sample_coat.png")
    arguments = (sample, "--backend", "tensorrt")
    done = run(python, unpacked / "run.py", *arguments, **device | environment)
    assert_one_message(done, message)


def test_without_its_gpu_the_bundle_falls_back_to_the_graph(
    python: Path, unpacked: Path, device: dict[str, str]
) -> None:
    environment = device | {"FAKE_CC": "7.5"}
    done = run(python, unpacked / "verify.py", **environment)
    assert done.returncode == 0, done.stderr
    for backend, capability in (("tensorrt", "8.0+"), ("tensorrt_rtx", "8.6, 8.7")):
        expected = (
            f"{backend} fp32: not run, {backend}.plan is for compute capability {capability};"
        )
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("built_for", "own", "fits"),
    [("8.6", "8.6", True), ("8.6", "8.9", False), ("8.0+", "12.0", True), ("8.0+", "7.5", False)],
)
def test_a_plan_may_be_for_all_later_gpus(
    monkeypatch: pytest.MonkeyPatch, built_for: str, own: str, fits: bool
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipeline" / "bundle" / "device"))
    from edge.cuda import Device
    from edge.runtime import NotHereError
    from edge.trt import require_target

    device = Device(driver=None, name="GPU", compute_capability=own)
    if fits:
        require_target("x.plan", ["7.0", built_for], device)
    else:
        with pytest.raises(NotHereError, match="build a plan here"):
            require_target("x.plan", ["7.0", built_for], device)


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_rtx"])
def test_the_fake_has_no_name_that_the_real_package_lacks(package: str) -> None:
    real = pytest.importorskip(package)
    for name in ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext"):
        own = {key for key in vars(getattr(fake_tensorrt, name)) if not key.startswith("_")}
        assert own
        assert own <= set(dir(getattr(real, name)))
    assert {"ERROR", "INTERNAL_ERROR"} <= set(dir(real.ILogger.Severity))
    assert real.ILogger.Severity.INTERNAL_ERROR < real.ILogger.Severity.ERROR
    assert {"INPUT", "OUTPUT"} <= set(real.TensorIOMode.__members__)
    assert callable(real.nptype)
    assert hasattr(real.Runtime, "engine_host_code_allowed")
    assert importlib.import_module(package).__version__
