"""What runs on the device, in environments that hold NumPy, Pillow and ONNX Runtime, or less."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from device_side import assert_one_message, make_environment, run, unpack
from PIL import Image
from places import ROOT
from stage_process import run_stage
from tiny_onnx import SIZE, write_network
from tiny_project import CLASSES, edit_json, write_project

from models.hashing import file_sha256
from pipeline.core.params import Prepare
from pipeline.data.dataset import load
from pipeline.data.prepare import prepare

SCRIPTS = str(ROOT / "pipeline" / "bundle" / "device")
RUNTIME = ("numpy", "pillow", "onnxruntime")


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


def test_the_environment_holds_nothing_else(python: Path) -> None:
    for package in ("torch", "onnx", "pipeline", "google.protobuf", "yaml"):
        done = subprocess.run(
            [python, "-c", f"import {package}"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_verifies_and_classifies_its_samples(
    python: Path, project: Path, tmp_path: Path, precision: str
) -> None:
    folder = unpack(project, precision, tmp_path)
    report = tmp_path / "checks.json"
    done = run(python, folder / "verify.py", "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert f"onnxruntime {precision}: passed" in done.stdout
    checks = {check["backend"]: check for check in json.loads(report.read_text())}
    assert checks["onnxruntime"]["max_rel"] <= 1e-5
    assert checks["tensorrt"]["status"] == "not run"
    assert checks["tensorrt"]["reason"]
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


def test_the_answer_is_one_line_per_image(python: Path, unpacked: Path) -> None:
    sample = "samples/sample_T-shirt_top.png"
    done = run(python, unpacked / "run.py", str(unpacked / sample), "--top", "1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{unpacked / sample}: ")
    assert line.endswith("% (onnxruntime)")


def test_an_image_becomes_the_input_that_the_pipeline_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from edge.images import Rules, load_image

    files = write_every_kind(tmp_path / "images")
    for fit, channels in (("pad", 1), ("pad", 3), ("crop", 1), ("crop", 3)):
        prepared = tmp_path / f"{fit}{channels}"
        prepared.mkdir()
        prepare(
            Prepare(
                source="image_folder",
                path=str(tmp_path / "images"),
                image_size=16,
                fit=fit,
                channels=channels,
            ),
            prepared,
        )
        images = load(prepared)
        batch = images.normalised(images.test)
        rules = Rules(16, channels, fit=fit, mean=images.mean, std=images.std)
        assert len(files) == len(batch)
        for file, expected in zip(files, batch.numpy(), strict=True):
            np.testing.assert_array_equal(load_image(file, rules)[0], expected, str(file))


@pytest.mark.parametrize(("ground", "value"), [("black", 0), ("grey", 128), ("white", 255)])
def test_the_ground_of_transparent_parts_and_the_bits_are_those_of_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ground: str, value: int
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from edge.checks import BundleError
    from edge.images import Rules, load_image

    rules = Rules(8, 1, "pad", [0.0], [1 / 255], transparent=ground, bits=12)
    Image.new("LA", (8, 8), (7, 0)).save(tmp_path / "clear.png")
    np.testing.assert_allclose(load_image(tmp_path / "clear.png", rules), value, rtol=1e-6)
    for level in (0, 2048, 4095):
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "deep.png")
        expected = level >> 4  # the upper 8 of 12 bits
        np.testing.assert_allclose(load_image(tmp_path / "deep.png", rules), expected, rtol=1e-6)
    Image.fromarray(np.full((8, 8), 4096, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BundleError, match="values 4096 to 4096 do not fit into 12 bits"):
        load_image(tmp_path / "deep.png", rules)


def write_every_kind(root: Path) -> list[Path]:
    """Write images of every kind to two classes of three splits; return those of test, in order."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    alpha = Image.fromarray(random.integers(0, 256, (9, 30, 4), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (40, 17), dtype=np.uint16))
    grey_palette = colour.convert("L").convert("P")
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    kinds = {
        "alpha.png": (alpha, {}),
        "colour.png": (colour, {}),
        "colour.jpg": (colour, {"exif": turned}),
        "deep.png": (deep, {}),
        "exact.png": (colour.resize((16, 16)), {}),
        "grey.png": (colour.convert("L"), {}),
        "grey_alpha.png": (alpha.convert("LA"), {}),
        "one_bit.png": (colour.convert("1"), {}),
        "palette.gif": (colour.convert("P"), {}),
        "palette_grey.png": (grey_palette, {}),
        "small.bmp": (colour.resize((3, 5)), {}),
        "wide.tif": (colour.resize((200, 2)), {}),
    }
    for folder in ("train/a", "train/b", "val/a", "val/b", "test/b"):
        (root / folder).mkdir(parents=True)
        colour.save(root / folder / "colour.png")
    (root / "test" / "a").mkdir()
    for name, (image, options) in kinds.items():
        image.save(root / "test" / "a" / name, **options)
    return [*sorted((root / "test" / "a").iterdir()), root / "test" / "b" / "colour.png"]


def test_images_of_other_sizes_and_kinds_fit(python: Path, unpacked: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "large.jpg")
    done = run(python, unpacked / "run.py", str(tmp_path / "large.jpg"))
    assert done.returncode == 0, done.stderr


def test_what_is_no_image_is_reported_in_one_line(
    python: Path, unpacked: Path, tmp_path: Path
) -> None:
    whole = (unpacked / "samples" / "sample_bag.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "cut.png": "is damaged",
        "text.png": "is not an image, or damaged at its start",
        "folder.png": "Is a directory",
        "none.png": "No such file",
    }.items():
        done = run(python, unpacked / "run.py", str(tmp_path / name))
        assert_one_message(done, name, message)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "preprocessing.json"])
def test_an_altered_file_is_refused_by_both(python: Path, unpacked: Path, name: str) -> None:
    flip_a_byte(unpacked / name)
    message = f"{name} was altered: its sha256 is "
    assert_one_message(run(python, unpacked / "verify.py"), message)
    sample = str(unpacked / "samples" / "sample_bag.png")
    assert_one_message(run(python, unpacked / "run.py", sample), message)


def test_missing_and_foreign_files_are_named(python: Path, unpacked: Path) -> None:
    (unpacked / "engines" / "tensorrt.plan").unlink()
    (unpacked / "model2.onnx").write_bytes(b"")
    done = run(python, unpacked / "verify.py")
    assert_one_message(
        done,
        "engines/tensorrt.plan cannot be read: No such file or directory",
        "model2.onnx is not of this bundle; remove it",
    )


def test_what_is_made_on_the_device_is_no_problem(python: Path, unpacked: Path) -> None:
    (unpacked / "built").mkdir()
    (unpacked / "built" / "tensorrt.log").write_text("")
    done = run(python, unpacked / "verify.py")
    assert done.returncode == 0, done.stderr
    assert not list(unpacked.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "is of format 2, and this code reads format 1"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1, "files": {}}', "is damaged: it has no engines, graphs"),
        (None, "is missing; unpack the bundle again"),
    ],
)
def test_another_manifest_is_refused(
    python: Path, unpacked: Path, content: str | None, message: str
) -> None:
    manifest = unpacked / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    for script, *arguments in (["verify.py"], ["run.py", "any.png"]):
        assert_one_message(run(python, unpacked / script, *arguments), "manifest.json", message)


def test_without_a_runtime_every_reason_is_given(unpacked: Path, tmp_path: Path) -> None:
    bare = make_environment(tmp_path / "bare", "numpy", "pillow")
    sample = str(unpacked / "samples" / "sample_bag.png")
    done = run(bare, unpacked / "run.py", sample)
    assert_one_message(
        done, "nothing here can run this bundle", "pip install onnxruntime", "tensorrt_rtx: "
    )
    done = run(bare, unpacked / "run.py", sample, "--backend", "onnxruntime")
    assert_one_message(done, "onnxruntime is not installed")
    done = run(bare, unpacked / "verify.py")
    assert_one_message(done, "nothing ran, so nothing is proven")
    assert "onnxruntime fp32: not run, onnxruntime is not installed" in done.stdout


def test_without_numpy_the_fix_is_named(unpacked: Path, tmp_path: Path) -> None:
    bare = make_environment(tmp_path / "empty")
    for script in ("run.py", "verify.py"):
        done = run(bare, unpacked / script, "any.png")
        assert_one_message(done, "numpy is not installed; pip install -r requirements.txt")


def test_a_backend_that_is_asked_for_must_run(python: Path, unpacked: Path) -> None:
    done = run(python, unpacked / "verify.py", "--backend", "tensorrt")
    assert done.returncode == 1
    assert "tensorrt fp32: not run, " in done.stdout


def test_another_network_fails_the_golden_inputs(
    python: Path, unpacked: Path, tmp_path: Path
) -> None:
    model = unpacked / "model.onnx"
    write_network(model, depth=2, seed=1)
    facts = {"bytes": model.stat().st_size, "sha256": file_sha256(model)}
    edit_json(unpacked / "manifest.json", lambda m: m["files"].update({"model.onnx": facts}))
    done = run(python, unpacked / "verify.py")
    assert_one_message(done, "must not be used here")
    assert "onnxruntime fp32: failed, max_rel " in done.stdout


def test_preprocessing_that_differs_is_found(python: Path, unpacked: Path) -> None:
    rules = unpacked / "preprocessing.json"
    edit_json(rules, lambda values: values.update({"mean": [0.1]}))
    facts = {"bytes": rules.stat().st_size, "sha256": file_sha256(rules)}
    edit_json(unpacked / "manifest.json", lambda m: m["files"].update({rules.name: facts}))
    message = "sample_T-shirt_top.png is decoded to other values than in golden.npz"
    assert_one_message(run(python, unpacked / "verify.py"), message)


TOOL = """#!/usr/bin/env bash
[[ $1 == --help ]] && { echo "  --saveEngine --skipInference --timingCacheFile"; exit; }
echo "$@" >"$ARGUMENTS"
[[ $FAILS ]] && { echo "[E] no kernel for it"; exit 1; }
for argument in "$@"; do
    [[ $argument == --saveEngine=* ]] && echo plan >"${argument#*=}"
done
exit 0
"""


@pytest.fixture
def rebuild(python: Path, project: Path, tmp_path: Path):
    """A function that runs rebuild.sh beside a builder that only records its arguments."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "trtexec").write_text(TOOL)
    (tools / "trtexec").chmod(0o755)
    folder = unpack(project, "int8", tmp_path)

    def call(*arguments: str, **environment: str):
        path = f"{tools}{os.pathsep}{python.parent}{os.pathsep}{os.environ['PATH']}"
        return folder, subprocess.run(
            [folder / "rebuild.sh", *arguments],
            cwd="/",
            env={"PATH": path, "ARGUMENTS": str(tmp_path / "arguments"), "FAILS": ""} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_rebuild_builds_the_common_graph_in_the_profile(rebuild, tmp_path: Path) -> None:
    folder, done = rebuild("tensorrt", "--verbose")
    assert "built/tensorrt.plan is ready" in done.stdout, done.stderr
    assert "tensorrt int8: not run, no CUDA device" in done.stdout
    assert done.returncode == 1  # nothing is proven without a device
    assert (tmp_path / "arguments").read_text().split() == [
        "--onnx=model.onnx",
        "--saveEngine=built/tensorrt.plan.new",
        f"--minShapes=images:1x1x{SIZE}x{SIZE}",
        f"--optShapes=images:2x1x{SIZE}x{SIZE}",
        f"--maxShapes=images:128x1x{SIZE}x{SIZE}",
        "--skipInference",
        "--timingCacheFile=built/tensorrt.timing",
        "--verbose",
    ]
    assert (folder / "built" / "tensorrt.plan").read_text() == "plan\n"


def test_rebuild_shows_the_end_of_the_builders_log(rebuild) -> None:
    folder, done = rebuild(FAILS="yes")
    assert done.returncode == 1
    assert "error: trtexec could not build model.onnx" in done.stderr
    assert "[E] no kernel for it" in done.stderr
    assert not (folder / "built" / "tensorrt.plan").exists()


def test_rebuild_verifies_before_it_builds(rebuild) -> None:
    folder, _ = rebuild("tensorrt")
    shutil.rmtree(folder / "built")
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    folder, done = rebuild("tensorrt")
    assert_one_message(done, "model.onnx was altered")
    assert not (folder / "built").exists()


def test_rebuild_does_not_write_through_a_link(rebuild, tmp_path: Path) -> None:
    folder, _ = rebuild("tensorrt")
    shutil.rmtree(folder / "built")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "built").symlink_to(elsewhere)
    _, done = rebuild("tensorrt")
    assert_one_message(done, "built is not of this bundle")
    assert not list(elsewhere.iterdir())


def test_rebuild_knows_its_backends_and_needs_the_tool(rebuild) -> None:
    _, done = rebuild("openvino")
    assert (done.returncode, done.stderr) == (
        1,
        "error: no backend 'openvino'; there are tensorrt and tensorrt_rtx\n",
    )
    _, done = rebuild("tensorrt_rtx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no tensorrt_rtx here; install TensorRT")
