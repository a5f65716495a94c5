"""OpenVINO on the CPU: networks compiled ahead of time to one file (the extra `openvino`)."""

import math
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from models.errors import BackendError
from pipeline.core.arrays import Images, Logits
from pipeline.core.hardware import cpu_features, cpu_name, usable_cores
from pipeline.core.params import Build
from pipeline.engines.backends.interface import Bound, Engine, Job, PrecisionEvidence
from pipeline.engines.backends.packages import CpuBackend, captured_stderr, read
from pipeline.engines.backends.weights import ITEM_BYTES

# OpenVINO reports every import to Google Analytics where it finds the package that does so.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8"}
MATRICES = {"Convolution", "FullyConnected", "MatMul", "Deconvolution"}


class OpenVino(CpuBackend):
    """An engine is a network compiled for this machine's CPU."""

    package, fix = "openvino", "pip install '.[openvino]'"
    suffix = "blob"

    def target(self, options: Build) -> dict[str, Any]:
        """Return the CPU, for whose vector instructions a network is compiled."""
        return {"cpu": cpu_name(), "cpu_features": cpu_features()}

    def build(self, job: Job) -> list[str]:
        """Compile an ONNX file for this machine's CPU; return what OpenVINO printed."""
        import openvino

        core, source = openvino.Core(), read(job.source)
        try:
            with captured_stderr() as printed:
                network = core.read_model(source)
                compiled = core.compile_model(network, "CPU", _settings(usable_cores()))
        except RuntimeError as e:
            raise BackendError(f"OpenVINO cannot compile {job.source}: {e}") from e
        job.target.write_bytes(compiled.export_model().getvalue())
        return printed

    def inspect(self, job: Job) -> PrecisionEvidence:
        """Return the types of constants and operators in the network as it runs."""
        network = _opened(job.target, usable_cores()).get_runtime_model()
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
        return PrecisionEvidence("runtime model", dict(weights), dict(operators))

    def load(self, path: Path, threads: int) -> Engine:
        """Open a compiled network; it must be of this version of OpenVINO and this CPU."""
        return partial(_bound, _opened(path, threads))


def _opened(path: Path, threads: int) -> Any:
    import openvino

    compiled = read(path)
    try:
        return openvino.Core().import_model(compiled, "CPU", _settings(threads))
    except RuntimeError as e:
        raise BackendError(f"OpenVINO cannot open {path}; run the build stage again: {e}") from e


def _settings(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The types of the graph; the default is bf16 where the CPU has it, unasked.
        "EXECUTION_MODE_HINT": "ACCURACY",
    }


def _bound(compiled: Any, images: Images) -> Bound:
    request = compiled.create_infer_request()
    problem = f"OpenVINO cannot run the network on images of {images.shape}"

    def run() -> Logits:
        try:
            logits: Logits = request.infer([images])[0].copy()
        except RuntimeError as e:
            raise BackendError(f"{problem}: {e}") from e
        if len(logits) != len(images):  # on one thread, errors come back as empty results
            raise BackendError(f"{problem}: it returned {len(logits)} rows")
        return logits

    return Bound(run)
