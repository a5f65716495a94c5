"""OpenVINO on the CPU: networks compiled ahead of time to one file (the extra `openvino`)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.engines.interface import Engine, Images, Logits
from pipeline.engines.machine import usable_cores
from pipeline.params import Build


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


def build(source: Path, target: Path, _: Build) -> None:
    """Compile an ONNX file for this machine's CPU.

    Raises:
        ArtifactError: there is no such file.
        BackendError: OpenVINO cannot read or compile the network.
    """
    import openvino

    if not source.exists():
        raise ArtifactError(f"{source} is missing; `dvc repro` makes it")
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(source), "CPU", _settings(usable_cores()))
    except RuntimeError as e:
        raise BackendError(f"OpenVINO cannot compile {source}: {e}") from e
    target.write_bytes(compiled.export_model().getvalue())


def load(path: Path, threads: int) -> Engine:
    """Open a compiled network.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the file is damaged, or of another version of OpenVINO or another CPU.
    """
    import openvino

    if not path.exists():
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it")
    try:
        compiled = openvino.Core().import_model(path.read_bytes(), "CPU", _settings(threads))
    except RuntimeError as e:
        raise BackendError(f"OpenVINO cannot open {path}; run the build stage again: {e}") from e
    return partial(_bind, compiled)


def _settings(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bf16 where the CPU has it, unasked
    }


def _bind(compiled: Any, images: Images) -> Callable[[], Logits]:
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

    return run
