"""A variant as the stages before `bundle` leave it: two levels of a small real network.

Its graphs are real, in float32, float16 and int8; so are their checks of the parity chain. The
plans are opaque bytes: `bundle` copies them, and no test without a GPU can run them.
"""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from PIL import Image
from places import FIXED
from tiny_onnx import SIZE, write_network

from models import zoo
from models.hashing import file_sha256
from pipeline.benchmark.records import BenchmarkMetrics, EngineLatency
from pipeline.core.artifacts import write_json
from pipeline.core.params import Prepare, load_params
from pipeline.core.records import write_record
from pipeline.data.dataset import load, validation_sample
from pipeline.data.prepare import prepare
from pipeline.engines.precision.tolerances import TOLERANCES, violations
from pipeline.engines.records import (
    BuildMetrics,
    BuiltEngine,
    MissingGraph,
    ParityCheck,
    PrecisionMetrics,
    TypedGraph,
    VerifyMetrics,
)
from pipeline.export.parity import compare
from pipeline.export.session import runner
from pipeline.plan.records import HealedLevel, HealMetrics

CLASSES = ["T-shirt/top", "bag", "coat", "dress", "été"]
LEVELS = (0, 1)
GRAPHS = {
    ("fp32", None): "fp32/level_{}.onnx",
    ("fp16", None): "fp16/level_{}.onnx",
    ("int8", None): "int8/level_{}.onnx",
    ("int8", "onnxruntime"): "int8/level_{}.onnxruntime.onnx",
}
BACKENDS = ("onnxruntime", "tensorrt_rtx", "tensorrt")
PLAN = b"a plan"
BATCH = {"min": 1, "opt": 2, "max": 128}
CAPABILITIES = {"tensorrt": ["8.0+"], "tensorrt_rtx": ["8.6", "8.7"]}
NOT_RUN = "torch cannot use Orin"


def write_project(root: Path, *, fit: str = "pad") -> None:
    """Lay out the variant `dense` in a folder: params.yaml, artifacts/ and metrics/."""
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    params["prepare"] |= {
        "source": "image_folder",
        "path": "images",
        "image_size": SIZE,
        "fit": fit,
        "limit": None,
    }
    params["build"]["batch"] = BATCH
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    _write_images(root, load_params(root / "params.yaml").prepare)
    _write_networks(root)
    _write_metrics(root)


def _write_images(root: Path, settings: Prepare) -> None:
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        folder = root / "images" / "train" / name.replace("/", "_")
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(0, 256, (15, 20), dtype=np.uint8) // (label + 1)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    target = root / "artifacts" / "prepare"
    target.mkdir(parents=True)
    manifest = prepare(settings.model_copy(update={"path": str(root / "images")}), target)
    write_json(target / "manifest.json", {**manifest, "classes": CLASSES})


def _write_networks(root: Path) -> None:
    images = load(root / "artifacts" / "prepare")
    spec = zoo.ModelSpec(
        "resnet18_cifar", len(CLASSES), 1, SIZE, images.mean, images.std, CLASSES, {"width": 4}
    )
    torch.manual_seed(0)
    trained = root / "artifacts" / "train" / "dense"
    trained.mkdir(parents=True)
    zoo.save(trained, spec, zoo.create(spec.name, len(CLASSES), width=4, in_chans=1))
    typed, collapsed = (root / "artifacts" / stage / "dense" for stage in ("precision", "collapse"))
    for precision in ("fp32", "fp16", "int8"):
        (typed / precision).mkdir(parents=True)
    collapsed.mkdir(parents=True)
    calibration = validation_sample(root / "artifacts" / "prepare", 99)
    for level, depth in zip(LEVELS, (3, 2), strict=True):
        whole = collapsed / f"level_{level}.onnx"
        write_network(whole, depth)
        files = {own: typed / file.format(level) for own, file in GRAPHS.items()}
        files["fp32", None].write_bytes(whole.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights too small for float16
            half = OnnxModel(convert_float_to_float16(onnx.load(whole), keep_io_types=True))
        half.topological_sort()  # the converter appends the casts
        onnx.save(half.model, files["fp16", None])
        for backend, activations in ((None, QuantType.QInt8), ("onnxruntime", QuantType.QUInt8)):
            _quantise(whole, files["int8", backend], calibration, activations)
        for backend in BACKENDS:
            engine = root / "artifacts/build/dense/fp32" / backend / f"level_{level}.engine"
            engine.parent.mkdir(parents=True, exist_ok=True)
            engine.write_bytes(PLAN)


class _Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{"images": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def _quantise(source: Path, target: Path, images: np.ndarray, activations: QuantType) -> None:
    quantize_static(
        source,
        target,
        _Calibration(images),
        activation_type=activations,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def _write_metrics(root: Path) -> None:
    images = validation_sample(root / "artifacts" / "prepare", 64)
    graphs = [_graph(root, level, *own) for level in LEVELS for own in GRAPHS]
    checks = [
        check
        for level in LEVELS
        for check in (
            _check(level, "collapsed onnx"),
            *(_precision_check(root, graph, images) for graph in graphs if graph.level == level),
            *(_engine_check(level, backend) for backend in BACKENDS),
        )
    ]
    target = {
        "devices": [{"name": "Orin", "compute_capability": "8.7", "memory_bytes": 8}],
        "torch": torch.__version__,
        "backends": {"onnxruntime": {"available": True, "version": "1.2.3"}},
    }
    missing = [MissingGraph(n, "bf16", None, "the converter failed") for n in LEVELS]
    not_available = {"openvino": "openvino is not installed"}
    records = {
        "heal": _heal(),
        "precision": PrecisionMetrics("dense", {}, graphs, missing),
        "build": BuildMetrics("dense", not_available, _built(), [], BATCH),
        "verify": VerifyMetrics("dense", len(images), checks),
    }
    for stage, record in records.items():
        write_record(root / "metrics" / stage / "dense.json", record)
    write_json(root / "artifacts" / "probe" / "target.json", target)


def _heal() -> HealMetrics:
    levels = [
        HealedLevel(n, ["layer1.0"][:n], "identity", "removed", {"removed": 60.0}) for n in LEVELS
    ]
    return HealMetrics("dense", "removed", 0, 0, 0.0, {}, "cpu", levels, chosen_level=1)


def _graph(root: Path, level: int, precision: str, backend: str | None) -> TypedGraph:
    file = GRAPHS[precision, backend].format(level)
    size = (root / "artifacts/precision/dense" / file).stat().st_size
    return TypedGraph(level, precision, backend, file, size, {}, {}, [], None, 0.0)


def _built() -> list[BuiltEngine]:
    return [
        BuiltEngine(
            *(level, "fp32", backend, f"fp32/{backend}/level_{level}.engine", len(PLAN), 0.0),
            *("10.9.8", "none", {}, {}, 0, None, CAPABILITIES.get(backend)),
        )
        for level in LEVELS
        for backend in BACKENDS
    ]


def _check(level: int, check: str, precision: str | None = None, **values: Any) -> ParityCheck:
    facts: dict[str, Any] = {"reference": "", "backend": None, "status": "passed", "reason": None}
    if "status" not in values:
        facts |= {"val_accuracy_pct": 60.0, "test_accuracy_pct": 50.0}
    return ParityCheck(level, check, precision=precision, tolerance={}, **facts | values)


def _precision_check(root: Path, graph: TypedGraph, images: np.ndarray) -> ParityCheck:
    """Compare a graph with the float32 one of its level."""
    typed = root / "artifacts" / "precision" / "dense"
    expected = runner(typed / GRAPHS["fp32", None].format(graph.level))(images)
    parity = compare(expected, runner(typed / graph.file)(images))
    assert not violations(parity, TOLERANCES[graph.precision])
    values = {"backend": graph.backend, "sha256": file_sha256(typed / graph.file)}
    numbers = dataclasses.asdict(parity)
    return _check(graph.level, "precision", graph.precision, **values, **numbers)


def _engine_check(level: int, backend: str) -> ParityCheck:
    outcome = {} if backend == "onnxruntime" else {"status": "not run", "reason": NOT_RUN}
    return _check(level, "engine", "fp32", backend=backend, **outcome)


def _benchmark(target: dict[str, Any]) -> BenchmarkMetrics:
    latencies = [
        EngineLatency(
            "dense", n, "fp32", "onnxruntime", 1, 0.5, None, 0.5, 0.6, 0.7, 2000.0, 3, True
        )
        for n in LEVELS
    ]
    not_timed = {"tensorrt_rtx": NOT_RUN}
    lists: list[list] = [[], [], [], [], []]
    return BenchmarkMetrics(target, {"rounds": 3}, {}, not_timed, {}, {}, latencies, *lists)


def edit_json(path: Path, change) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
