"""What runs on the device, in environments that hold NumPy, Pillow and ONNX Runtime, or less."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage_process import run_stage
from tiny_onnx import SIZE
from tiny_project import CLASSES, edit_json, write_project

from models.errors import DataError
from pipeline.engines.onnxruntime import runner
from pipeline.image_files import file_source
from pipeline.prepare import FITS, _with_channels

RUNTIME = ("numpy", "pillow", "onnxruntime")


def make_environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment in which these packages alone can be imported, by links."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for package in packages:
        files = metadata.files(package)
        assert files is not None
        for name in {file.parts[0] for file in files if file.parts[0] != ".."}:
            source = Path(str(metadata.distribution(package).locate_file(name)))
            if not (site / name).exists():
                (site / name).symlink_to(source)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"), *RUNTIME)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_project(root)
    for precision in ("fp32", "fp16", "int8"):
        done = run_stage("bundle", "dense", "--precision", precision, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def unpacked(project: Path, tmp_path: Path) -> Path:
    """The bundle in float32 as it arrives on a device."""
    return unpack(project, "fp32", tmp_path)


def unpack(project: Path, precision: str, target: Path) -> Path:
    name = f"dense-l1-{precision}"
    with tarfile.open(project / f"artifacts/bundle/{name}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target / name


def run(python: Path, script: Path, *arguments: str, **environment: str):
    return subprocess.run(
        [python, "-W", "error", script, *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_message(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_the_environment_holds_nothing_else(python: Path) -> None:
    for package in ("torch", "onnx", "pipeline", "google.protobuf", "yaml"):
        done = subprocess.run(
            [python, "-c", f"import {package}"], cwd="/", capture_output=True, text=True, check=False
        )
        assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_verifies_and_classifies_its_samples(
    python: Path, project: Path, tmp_path: Path, precision: str
) -> None:
    folder = unpack(project, precision, tmp_path)
    report = tmp_path / "rungs.json"
    done = run(python, folder / "verify.py", "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert f"onnxruntime {precision}: passed" in done.stdout
    rungs = {rung["backend"]: rung for rung in json.loads(report.read_text())}
    assert rungs["onnxruntime"]["max_rel"] <= 1e-5
    assert rungs["tensorrt"]["status"] == "not run"
    assert rungs["tensorrt"]["reason"]
    manifest = json.loads((folder / "manifest.json").read_text())
    samples = [str(folder / sample["file"]) for sample in manifest["samples"]]
    done = run(python, folder / "run.py", "--json", *samples)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    golden = np.load(folder / "golden.npz")
    graph = manifest["graphs"][-1]  # the one for ONNX Runtime alone comes last
    assert (graph["file"] == "model.onnxruntime.onnx") == (precision == "int8")
    logits = golden[graph["golden"]].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert len(results) == 4
    for result, expected in zip(results, shares, strict=True):
        best = result["classes"][0]
        assert best["class"] == CLASSES[expected.argmax()]
        assert best["probability"] == pytest.approx(expected.max(), rel=1e-4)
        assert len(result["classes"]) == 3


def test_the_answer_is_told_in_one_line_per_image(python: Path, unpacked: Path) -> None:
    sample = "samples/sample_T-shirt_top.png"
    done = run(python, unpacked / "run.py", str(unpacked / sample), "--top", "1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{unpacked / sample}: ")
    assert line.endswith("% (onnxruntime)")
