"""OpenVINO on the CPU: networks compiled ahead of time to one file (the extra `openvino`)."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.engines.interface import Bound, Engine, Evidence, Images, Job, Logits
from pipeline.engines.machine import cpu_features, cpu_name, usable_cores
from pipeline.engines.messages import captured_stderr
from pipeline.engines.weights import ITEM_BYTES
from pipeline.params import Build

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8"}
MATRICES = {"Convolution", "FullyConnected", "MatMul", "Deconvolution"}


def version() -> str:
    """Return the version of the package."""
    import openvino

    return str(openvino.__version__).partition("-")[0]


def check() -> None:
    """Raise `BackendUnavailable` where the package is not installed."""
    try:
        import openvino  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable(
            f"openvino is not installed ({e}); pip install '.[openvino]'"
        ) from e


def runnable(_: Build) -> None:
    """Do nothing: there is always a CPU."""


def target(_: Build) -> dict[str, Any]:
    """Return the CPU, for whose vector instructions a network is compiled."""
    return {"cpu": cpu_name(), "cpu_features": cpu_features()}


def build(job: Job) -> list[str]:
    """Compile an ONNX file for this machine's CPU.

    Returns:
        What OpenVINO printed.

    Raises:
        ArtifactError: there is no such file.
        BackendError: OpenVINO cannot read or compile the network.
    """
    import openvino

    if not job.source.exists():
        raise ArtifactError(f"{job.source} is missing; `dvc repro` makes it")
    core = openvino.Core()
    try:
        with captured_stderr() as printed:
            network = core.read_model(job.source)
            compiled = core.compile_model(network, "CPU", _settings(usable_cores()))
    except RuntimeError as e:
        raise BackendError(f"OpenVINO cannot compile {job.source}: {e}") from e
    job.target.write_bytes(compiled.export_model().getvalue())
    return printed


def inspect(job: Job) -> Evidence:
    """Return the types of constants and operators in the network as it runs."""
    network = _import(job.target, usable_cores()).get_runtime_model()
    weights: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for node in network.get_ops():
        facts = node.get_rt_info()
        kind, layer = (str(facts[key].value) for key in ("runtimePrecision", "layerType"))
        if kind not in TYPES:
            continue
        shape = node.get_output_partial_shape(0)
        if layer == "Const" and shape.is_static and len(shape) >= 2:
            weights[TYPES[kind]] += ITEM_BYTES[TYPES[kind]] * math.prod(shape.to_shape())
        elif layer in MATRICES:
            operators[TYPES[kind]] += 1
    return Evidence("runtime model", dict(weights), dict(operators))


def load(path: Path, threads: int) -> Engine:
    """Open a compiled network.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the file is damaged, or of another version of OpenVINO or another CPU.
    """
    return partial(_bind, _import(path, threads))


def _import(path: Path, threads: int) -> Any:
    import openvino

    if not path.exists():
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it")
    try:
        return openvino.Core().import_model(path.read_bytes(), "CPU", _settings(threads))
    except RuntimeError as e:
        raise BackendError(f"OpenVINO cannot open {path}; run the build stage again: {e}") from e


def _settings(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The types of the graph; the default is bf16 where the CPU has it, unasked.
        "EXECUTION_MODE_HINT": "ACCURACY",
    }


def _bind(compiled: Any, images: Images) -> Bound:
    request = compiled.create_infer_request()
    refusal = f"OpenVINO cannot run the network on images of {images.shape}"

    def run() -> Logits:
        try:
            logits: Logits = request.infer([images])[0].copy()
        except RuntimeError as e:
            raise BackendError(f"{refusal}: {e}") from e
        if len(logits) != len(images):  # on one thread, errors come back as empty results
            raise BackendError(f"{refusal}: it returned {len(logits)} rows")
        return logits

    return Bound(run)
