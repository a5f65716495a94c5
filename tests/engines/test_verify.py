"""The parity chain on a small real network, its engines, and networks that are not it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_onnx import CLASSES, SIZE, write_network

from models.hashing import file_sha256
from pipeline.core.hardware import cuda_devices
from pipeline.core.params import Batch, Build
from pipeline.data.dataset import Dataset, Split
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.precision.tolerances import TOLERANCES
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    ParityCheck,
    PrecisionMetrics,
    TypedGraph,
)
from pipeline.engines.verify import (
    Inputs,
    earlier_check,
    engine_check,
    engine_tolerance,
    level_checks,
    precision_check,
)
from pipeline.export.parity import Parity
from pipeline.export.records import ExportMetrics
from pipeline.export.session import runner

CLOSE = Parity(max_abs=1e-6, max_rel=1e-7, cosine=1.0, top1_agreement=1.0)
ACCURACIES = {"val_accuracy_pct": 75.0, "test_accuracy_pct": 74.0}


def collapsed_check(parity: Parity = CLOSE, **facts: object) -> ParityCheck:
    return earlier_check(0, "collapsed onnx", "bypassed torch", parity, 1e-5, **facts)


def typed_graph(precision: str, backend: str | None = None, file: str = "") -> TypedGraph:
    return TypedGraph(0, precision, backend, file, 0, {}, {}, [], None, 0.1)


def graph_check(status: str) -> ParityCheck:
    return ParityCheck(0, "precision", "collapsed onnx", "fp32", None, status, None, {})


PASSED = graph_check("passed")


def split(n: int, seed: int, network: Path) -> Split:
    """Return images that the network itself has labelled, but for one in four."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, SIZE, SIZE), dtype=np.uint8)
    images = Split(torch.from_numpy(pixels), torch.zeros(n, dtype=torch.int64))
    logits = runner(network)(normalised(images))
    labels = torch.from_numpy(logits.argmax(axis=1))
    labels[::4] = (labels[::4] + 1) % CLASSES
    return Split(images.images, labels)


def normalised(images: Split) -> np.ndarray:
    data = Dataset(images, images, images, [], [0.5], [0.25], SIZE, 1)
    return data.normalised(images).numpy()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "level_0.onnx"
    write_network(path, depth=3)
    return path


@pytest.fixture(scope="module")
def inputs(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
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
    folder = tmp_path_factory.mktemp("files")
    return Inputs(normalised(splits["validation"]), data, options, folder, folder)


def engine_of(source: Path, folder: Path, inputs: Inputs) -> Path:
    target = folder / "engine.onnx"
    BACKENDS["onnxruntime"].build(Job(source, target, "fp32", inputs.build))
    return target


def test_the_engine_of_the_graph_passes_with_the_accuracy_of_its_bytes(
    network: Path, inputs: Inputs, tmp_path: Path
) -> None:
    engine = engine_of(network, tmp_path, inputs)
    check = engine_check(PASSED, "onnxruntime", engine, runner(network), inputs)
    assert check.status == "passed", check.reason
    assert check.max_rel is not None
    assert check.max_rel <= 1e-5
    assert check.top1_agreement == 1
    assert check.val_accuracy_pct == 75
    assert check.test_accuracy_pct == 75
    assert check.sha256 == file_sha256(engine)


def test_the_engine_of_another_network_fails_and_is_not_evaluated(
    network: Path, inputs: Inputs, tmp_path: Path
) -> None:
    write_network(tmp_path / "other.onnx", depth=3, seed=1)
    engine = engine_of(tmp_path / "other.onnx", tmp_path, inputs)
    check = engine_check(PASSED, "onnxruntime", engine, runner(network), inputs)
    assert check.status == "failed"
    assert check.reason is not None
    assert "max_rel" in check.reason
    assert check.max_abs is not None
    assert check.test_accuracy_pct is None


def test_values_that_are_not_finite_fail(network: Path, inputs: Inputs) -> None:
    check = precision_check(
        collapsed_check(),
        typed_graph("fp16"),
        lambda x: np.full((len(x), 5), np.nan, np.float32),
        runner(network)(inputs.images),
        inputs,
        sha256="other",
    )
    assert (check.status, check.reason) == ("failed", "the logits hold values that are not finite")


def test_below_a_failed_check_nothing_runs(network: Path, inputs: Inputs, tmp_path: Path) -> None:
    missing = tmp_path / "never_opened.onnx"
    check = engine_check(graph_check("failed"), "onnxruntime", missing, runner(network), inputs)
    assert (check.status, check.reason) == ("not run", "the check above it: failed")
    far = collapsed_check(Parity(1.0, 0.5, 0.9, 0.9))
    assert (far.status, far.reason) == ("failed", "max_rel 5.0e-01 > 1e-05")
    logits = runner(network)(inputs.images)
    below = precision_check(
        far, typed_graph("fp32"), runner(network), logits, inputs, sha256="other"
    )
    assert (below.status, below.reason) == ("not run", "the check above it: failed")
    assert below.max_rel is None


def test_what_needs_a_device_is_not_run_and_says_so(network: Path, inputs: Inputs) -> None:
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    check = engine_check(PASSED, "tensorrt_rtx", network, runner(network), inputs)
    assert (check.status, check.reason) == ("not run", "no CUDA device")


def test_a_precision_is_held_to_its_own_tolerance(network: Path, inputs: Inputs) -> None:
    expected = runner(network)(inputs.images)
    scale = np.abs(expected).max()
    off = 2 * TOLERANCES["fp16"].max_rel * scale

    def shifted(images: np.ndarray) -> np.ndarray:
        return runner(network)(images) + np.float32(off)  # a shift turns no image over

    def check(precision: str) -> ParityCheck:
        graph = typed_graph(precision)
        how = {"sha256": "other", "note": "shifted"}
        return precision_check(collapsed_check(), graph, shifted, expected, inputs, **how)

    assert check("fp16").status == "failed"
    wide = check("int8")
    assert wide.sha256 == "other"
    assert wide.max_abs == pytest.approx(off, rel=1e-3)
    assert wide.reason is not None  # the shift breaks the cosine


def test_in_float32_an_engine_is_held_to_what_its_backend_computes_in() -> None:
    assert engine_tolerance("fp32", "tensorrt").max_rel == BACKENDS["tensorrt"].tolerance
    assert engine_tolerance("int8", "tensorrt") == TOLERANCES["int8"]


def test_a_check_of_an_earlier_stage_is_judged_by_its_numbers() -> None:
    check = collapsed_check(**ACCURACIES, sha256="of the graph")
    assert (check.reference, check.status) == ("bypassed torch", "passed")
    assert (check.max_rel, check.tolerance) == (1e-7, {"max_rel": 1e-5})
    assert (check.val_accuracy_pct, check.test_accuracy_pct) == (75.0, 74.0)
    assert collapsed_check(Parity(0.0, float("nan"), 1.0, 1.0)).status == "failed"


def test_a_levels_chain_names_what_each_graph_and_engine_is_compared_with(
    network: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """fp32 is the collapsed graph's bytes, int8 for one backend another network."""
    (tmp_path / "fp32.onnx").write_bytes(network.read_bytes())
    write_network(tmp_path / "int8.onnx", depth=3)
    write_network(tmp_path / "int8-onnxruntime.onnx", depth=3, seed=1)
    engine_of(network, tmp_path, inputs)
    graphs = [
        typed_graph("fp32", None, "fp32.onnx"),
        typed_graph("int8", None, "int8.onnx"),
        typed_graph("int8", "onnxruntime", "int8-onnxruntime.onnx"),
    ]
    engines = [
        BuiltEngine(0, name, "onnxruntime", "engine.onnx", 1, 0.1, "1", "", {}, {}, 0, None)
        for name in ("fp32", "int8")
    ]
    sha256 = file_sha256(network)
    checks = list(
        level_checks(
            ExportMetrics("dense", "model.onnx", 18, 1, {}, 1e-4, CLOSE),
            collapsed_check(**ACCURACIES, sha256=sha256),
            network,
            PrecisionMetrics("dense", {}, graphs, []),
            BuildMetrics("dense", {}, engines, []),
            replace(inputs, graphs=tmp_path, engines=tmp_path),
        )
    )
    same = checks[2]
    assert [(c.check, c.precision, c.backend, c.reference, c.status) for c in checks] == [
        ("onnx", None, None, "torch", "passed"),
        ("collapsed onnx", None, None, "bypassed torch", "passed"),
        ("precision", "fp32", None, "collapsed onnx", "passed"),
        ("engine", "fp32", "onnxruntime", "its graph", "passed"),
        ("precision", "int8", None, "collapsed onnx", "passed"),
        ("precision", "int8", "onnxruntime", "collapsed onnx", "failed"),
        ("engine", "int8", "onnxruntime", "its graph", "not run"),
    ]
    assert (same.sha256, same.max_abs, same.test_accuracy_pct) == (sha256, 0.0, 74.0)
    assert same.reason is not None
    assert "the sha256 of both files is the same" in same.reason
