"""The parity ladder on a small real network, its engines, and networks that are not it."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_onnx import CLASSES, SIZE, write_network

from models.hashing import file_sha256
from pipeline.data import Dataset, Split, batches
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Job
from pipeline.engines.machine import cuda_devices
from pipeline.engines.onnxruntime import runner
from pipeline.params import Batch, Build
from pipeline.tolerances import TOLERANCES
from pipeline.verify import (
    Inputs,
    Rung,
    engine_rung,
    engine_tolerance,
    precision_rung,
    proven_rungs,
    same_bytes_rung,
)

SHA256 = "of a graph"
PASSED = Rung("precision", "fp32")


def split(n: int, seed: int, network: Path) -> Split:
    """Return images that the network itself has labelled, but for one in four."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, SIZE, SIZE), dtype=np.uint8)
    images = Split(torch.from_numpy(pixels), torch.zeros(n, dtype=torch.int64))
    logits = runner(network)(normalised(images))
    labels = torch.from_numpy(logits.argmax(axis=1))
    labels[::4] = (labels[::4] + 1) % CLASSES
    return Split(images.images, labels)


def normalised(images: Split) -> np.ndarray:
    [(batch, _)] = batches(images, len(images), mean=[0.5], std=[0.25], device="cpu")
    return batch.numpy()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ladder") / "level_0.onnx"
    write_network(path, depth=3)
    return path


@pytest.fixture(scope="module")
def inputs(network: Path) -> Inputs:
    splits = {name: split(n, n, network) for name, n in (("validation", 40), ("test", 24))}
    data = Dataset(
        train=splits["test"],
        **splits,
        classes=list("abcde"),
        mean=[0.5],
        std=[0.25],
        image_size=SIZE,
        channels=1,
    )
    options = Build(
        backends=["onnxruntime"],
        compute_capabilities=["8.6"],
        batch=Batch(min=3, opt=4, max=16),
    )
    return Inputs(normalised(splits["validation"]), data, options)


def engine_of(source: Path, folder: Path, inputs: Inputs) -> Path:
    target = folder / "engine.onnx"
    BACKENDS["onnxruntime"].build(Job(source, target, "fp32", inputs.build))
    return target


def test_the_engine_of_the_graph_passes_with_the_accuracy_of_its_bytes(
    network: Path, inputs: Inputs, tmp_path: Path
) -> None:
    engine = engine_of(network, tmp_path, inputs)
    rung = engine_rung(PASSED, "onnxruntime", engine, runner(network), inputs)
    assert rung.status == "passed", rung.reason
    assert rung.max_rel is not None
    assert rung.max_rel <= 1e-5
    assert rung.top1_agreement == 1
    assert rung.val_accuracy_pct == 75
    assert rung.test_accuracy_pct == 75
    assert rung.sha256 == file_sha256(engine)


def test_the_engine_of_another_network_fails_and_is_not_evaluated(
    network: Path, inputs: Inputs, tmp_path: Path
) -> None:
    write_network(tmp_path / "other.onnx", depth=3, seed=1)
    engine = engine_of(tmp_path / "other.onnx", tmp_path, inputs)
    rung = engine_rung(PASSED, "onnxruntime", engine, runner(network), inputs)
    assert rung.status == "failed"
    assert rung.reason is not None
    assert "max_rel" in rung.reason
    assert rung.max_abs is not None
    assert rung.test_accuracy_pct is None


def test_values_that_are_not_finite_fail(network: Path, inputs: Inputs) -> None:
    expected = runner(network)(inputs.images)
    rung = precision_rung(
        "fp16", lambda x: np.full((len(x), 5), np.nan), expected, inputs, sha256=SHA256
    )
    assert (rung.status, rung.reason) == ("failed", "the logits hold values that are not finite")


def test_below_a_failed_rung_nothing_runs(network: Path, inputs: Inputs, tmp_path: Path) -> None:
    failed = Rung("precision", "int8", status="failed")
    missing = tmp_path / "never_opened.onnx"
    rung = engine_rung(failed, "onnxruntime", missing, runner(network), inputs)
    assert (rung.status, rung.reason) == ("not run", "the rung above it: failed")


def test_what_needs_a_device_is_not_run_and_says_so(network: Path, inputs: Inputs) -> None:
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    rung = engine_rung(PASSED, "tensorrt_rtx", network, runner(network), inputs)
    assert (rung.status, rung.reason) == ("not run", "no CUDA device")


def test_a_precision_is_held_to_its_own_tolerance(network: Path, inputs: Inputs) -> None:
    expected = runner(network)(inputs.images)
    scale = np.abs(expected).max()
    off = 2 * TOLERANCES["fp16"].max_rel * scale

    def shifted(images: np.ndarray) -> np.ndarray:
        return runner(network)(images) + np.float32(off)  # a shift turns no image over

    assert precision_rung("fp16", shifted, expected, inputs, sha256=SHA256).status == "failed"
    wide = precision_rung("int8", shifted, expected, inputs, sha256=SHA256, note="shifted")
    assert wide.sha256 == SHA256
    assert wide.max_abs == pytest.approx(off, rel=1e-3)
    assert wide.reason is not None


def test_in_float32_an_engine_is_held_to_what_its_backend_computes_in() -> None:
    assert engine_tolerance("fp32", "tensorrt").max_rel == BACKENDS["tensorrt"].tolerance
    assert engine_tolerance("int8", "tensorrt") == TOLERANCES["int8"]


def rungs_of(level: dict, accuracy_pct: float) -> list[Rung]:
    parity = {"max_abs": 1e-6, "max_rel": 1e-7, "cosine": 1.0, "top1_agreement": 1.0}
    return proven_rungs(
        level | {"val_accuracy_removed_pct": 89.0},
        {"shipped": "removed", "val_accuracy_removed_pct": 91.0},
        {"parity": parity},
        {"parity": parity, "val_accuracy_pct": accuracy_pct, "test_accuracy_pct": 88.0},
        {"export": 1e-4, "collapse": 1e-5},
    )


def test_what_earlier_stages_proved_comes_first() -> None:
    rungs = rungs_of({"shipped": "removed"}, 89.0)
    assert [r.rung for r in rungs] == ["eager torch", "bypassed torch", "onnx", "collapsed onnx"]
    assert [r.val_accuracy_pct for r in rungs] == [91.0, 89.0, None, 89.0]
    assert rungs[2].tolerance == {"max_rel": 1e-4}
    same = same_bytes_rung("fp32", rungs[-1], SHA256)
    assert same.sha256 == SHA256
    assert (same.max_abs, same.test_accuracy_pct) == (0.0, 88.0)
    assert asdict(same)["status"] == "passed"


def test_a_repaired_level_is_compared_with_the_repaired_network() -> None:
    rungs = rungs_of({"shipped": "healed", "val_accuracy_healed_pct": 90.0}, 90.0)
    names = ["eager torch", "bypassed torch", "repaired torch", "collapsed onnx"]
    assert [r.rung for r in rungs] == names  # the whole network's export is not on this way
    assert [r.val_accuracy_pct for r in rungs] == [91.0, 89.0, 90.0, 90.0]
    assert rungs[-1].tolerance == {"max_rel": 1e-5}
