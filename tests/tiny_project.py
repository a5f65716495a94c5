"""A variant as the stages before `bundle` leave it: two levels of a small real network.

Its graphs are real, in float32, float16 and int8; so are their rungs of the parity ladder. The
plans are opaque bytes: `bundle` copies them, and no test without a GPU can run them.
"""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from PIL import Image
from tiny_onnx import SIZE, write_network

from models import zoo
from models.hashing import file_sha256
from pipeline.artifacts import write_json
from pipeline.data import batches, load, subset
from pipeline.engines.onnxruntime import runner
from pipeline.params import Params, Prepare, load_params
from pipeline.prepare import prepare
from pipeline.verify import Inputs, Rung, precision_rung, same_bytes_rung

ROOT = Path(__file__).parent.parent
CLASSES = ["T-shirt/top", "bag", "coat", "dress", "été"]
PLAN = b"a plan"
CAPABILITIES = {"tensorrt": ["8.0+"], "tensorrt_rtx": ["8.6", "8.7"]}
NOT_RUN = "torch cannot use Orin"


def write_project(root: Path, *, fit: str = "pad") -> None:
    """Lay out the variant `dense` in a folder: params.yaml, artifacts/ and metrics/."""
    params = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    params["prepare"] |= {
        "source": "image_folder",
        "path": "images",
        "image_size": SIZE,
        "fit": fit,
        "limit": None,
    }
    params["build"]["batch"] = {"min": 1, "opt": 2, "max": 128}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    _write_images(root, load_params(root / "params.yaml").prepare)
    _write_networks(root)
    _write_metrics(root, load_params(root / "params.yaml"))


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
    [(batch, _)] = batches(images.train, 99, mean=images.mean, std=images.std, device="cpu")
    calibration = batch.numpy()
    for level, depth in enumerate((3, 2)):
        whole = collapsed / f"level_{level}.onnx"
        write_network(whole, depth)
        (typed / "fp32" / whole.name).write_bytes(whole.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights too small for float16
            half = OnnxModel(convert_float_to_float16(onnx.load(whole), keep_io_types=True))
        half.topological_sort()  # the converter appends the casts
        onnx.save(half.model, typed / "fp16" / whole.name)
        for name, activations in (
            (whole.name, QuantType.QInt8),
            (f"level_{level}.onnxruntime.onnx", QuantType.QUInt8),
        ):
            _quantise(whole, typed / "int8" / name, calibration, activations)
        for backend in ("onnxruntime", "tensorrt_rtx", "tensorrt"):
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


def _write_metrics(root: Path, params: Params) -> None:
    data = load(root / "artifacts" / "prepare")
    sample = subset(data.validation, 64, seed=0)
    [(images, _)] = batches(sample, len(sample), mean=data.mean, std=data.std, device="cpu")
    inputs = Inputs(images.numpy(), data, params.build)
    levels = [_level(root, number, inputs) for number in range(2)]
    names = [{"level": n, "removed": ["layer1.0"][:n]} for n in range(2)]

    def own(stage: str) -> list[dict]:
        return [names[number] | level[stage] for number, level in enumerate(levels)]

    target = {
        "devices": [{"name": "Orin", "compute_capability": "8.7", "memory_bytes": 8}],
        "torch": torch.__version__,
        "backends": {"onnxruntime": {"available": True, "version": "1.2.3"}},
    }
    metrics = {
        "heal": {"chosen_level": 1, "levels": names},
        "precision": {"levels": own("precision")},
        "build": {
            "not_available": {"openvino": "openvino is not installed"},
            "levels": own("build"),
        },
        "verify": {"levels": own("verify")},
        "benchmark": {
            "target": target,
            "protocol": {"rounds": 3},
            "not_timed": {"tensorrt_rtx": NOT_RUN},
            "levels": [
                {**n, "latency_ms": {"fp32": {"onnxruntime": {"1": {"p50": 0.5}}}}} for n in names
            ],
        },
    }
    for stage, value in metrics.items():
        write_json(root / "metrics" / stage / "dense.json", {"variant": "dense", **value})
    write_json(root / "artifacts" / "probe" / "target.json", target)


def _level(root: Path, number: int, inputs: Inputs) -> dict:
    typed = root / "artifacts" / "precision" / "dense"
    name = f"level_{number}.onnx"
    proven = Rung("collapsed onnx", val_accuracy_pct=60.0, test_accuracy_pct=50.0)
    expected = runner(typed / "fp32" / name)(inputs.images)
    rungs = [
        Rung("eager torch"),
        proven,
        same_bytes_rung("fp32", proven, file_sha256(typed / "fp32" / name)),
    ]
    files = {
        ("fp16", None): f"fp16/{name}",
        ("int8", None): f"int8/{name}",
        ("int8", "onnxruntime"): f"int8/level_{number}.onnxruntime.onnx",
    }
    rungs += [
        precision_rung(
            precision,
            runner(typed / file),
            expected,
            inputs,
            sha256=file_sha256(typed / file),
            backend=backend,
        )
        for (precision, backend), file in files.items()
    ]
    backends = {"onnxruntime": "passed", "tensorrt_rtx": "not run", "tensorrt": "not run"}
    for backend, status in backends.items():
        reason = None if status == "passed" else NOT_RUN
        rungs.append(Rung("engine", "fp32", backend, status, reason))
    own = {
        p: {"file": f, "bytes": (typed / f).stat().st_size} for (p, b), f in files.items() if not b
    }
    own["int8"]["files"] = {"onnxruntime": files["int8", "onnxruntime"]}
    fp32 = f"fp32/{name}"
    graphs = {"fp32": {"file": fp32, "bytes": (typed / fp32).stat().st_size}, **own}
    engines = {
        backend: {
            "file": f"fp32/{backend}/level_{number}.engine",
            "bytes": len(PLAN),
            "version": "10.9.8",
            **({"compute_capabilities": CAPABILITIES[backend]} if backend in CAPABILITIES else {}),
        }
        for backend in backends
    }
    return {
        "precision": {"graphs": graphs, "failed": {"bf16": "the converter refused it"}},
        "build": {"engines": {"fp32": engines}, "failed": {}},
        "verify": {"rungs": [dataclasses.asdict(rung) for rung in rungs]},
    }


def edit_json(path: Path, change) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
