"""TensorRT and TensorRT-RTX, one API in two packages: which are here, and what they can do.

TensorRT-RTX builds ahead of time for the GPUs named in params.yaml and needs none to do so;
TensorRT builds for the GPU it runs on. Both need a CUDA device to run. Each package loads its
libraries for itself alone (RTLD_LOCAL), so both fit in one process.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.engines.machine import cuda_devices, cuda_driver
from pipeline.params import Build


@dataclass(frozen=True)
class Flavour:
    """One of the two packages."""

    package: str
    title: str
    fix: str  # where the package is not installed
    ahead_of_time: bool  # builds without a GPU, for the compute capabilities it is given


TENSORRT = Flavour("tensorrt", "TensorRT", "pip install '.[tensorrt]' beside an NVIDIA GPU", False)
TENSORRT_RTX = Flavour(
    "tensorrt_rtx", "TensorRT-RTX", "pip install . on x86-64 Linux installs it", True
)

AMPERE_PLUS = "8.0+"  # the compute capabilities of hardware_compatibility ampere_plus


def version(flavour: Flavour) -> str:
    """Return the version of the package."""
    return str(package(flavour).__version__)


def check(flavour: Flavour) -> None:
    """Raise `BackendUnavailable` without the package, or without the GPU it needs to build."""
    package(flavour)
    if not flavour.ahead_of_time and not cuda_devices():
        raise BackendUnavailable(f"no CUDA device; {flavour.title} builds for the GPU it runs on")


def runnable(flavour: Flavour, options: Build) -> None:
    """Raise `BackendUnavailable` where engines built with `options` cannot run, with the reason."""
    devices = cuda_devices()
    if not devices:
        raise BackendUnavailable("no CUDA device")
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} cannot use {devices[0].name}")
    if not flavour.ahead_of_time:
        return
    known = known_capabilities(flavour)
    if devices[0].compute_capability not in target_capabilities(flavour, options):
        raise BackendUnavailable(
            f"{flavour.title} {version(flavour)} does not build for {devices[0].name}, of compute "
            f"capability {devices[0].compute_capability}, but for {', '.join(known)}"
        )


def target(flavour: Flavour, options: Build) -> dict[str, Any]:
    """Return what engines are built for: `compute_capabilities`, and the GPU and driver here.

    TensorRT-RTX needs no GPU to build, so its engines depend on none. ``8.0+`` is 8.0 and later.
    """
    if flavour.ahead_of_time:
        return {"compute_capabilities": target_capabilities(flavour, options)}
    device = cuda_devices()[0]
    later = options.hardware_compatibility == "ampere_plus"
    return {
        "device": device.name,
        "compute_capabilities": [AMPERE_PLUS if later else device.compute_capability],
        "driver": cuda_driver(),
    }


def package(flavour: Flavour) -> Any:
    """Import the package; `BackendUnavailable` where it is not installed."""
    try:
        return importlib.import_module(flavour.package)
    except (ImportError, OSError) as e:
        raise BackendUnavailable(f"{flavour.package} is not installed ({e}); {flavour.fix}") from e


@cache
def messages(flavour: Flavour) -> Any:
    """Return the logger, with lists `errors` and `warnings`; a process may have only one each."""
    trt = package(flavour)

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)

        def clear(self) -> None:
            self.errors.clear()
            self.warnings.clear()

    return Messages()


def open_plan(flavour: Flavour, path: Path) -> Any:
    """Deserialise an engine on the current CUDA device.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the engine is damaged, or of another version or another GPU.
    """
    said = messages(flavour)
    said.clear()
    runtime = package(flavour).Runtime(said)
    # A version-compatible plan brings its runtime along as host code. Plans are code in any case:
    # only those that Shoal has built, or a bundle that was verified, are opened.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(read(path))
    if engine is None:
        raise BackendError(
            f"{flavour.title} cannot open {path}; run the build stage again: "
            f"{'; '.join(said.errors)}"
        )
    return engine


def read(path: Path) -> bytes:
    """Return a file's bytes; `ArtifactError` where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e


def known_capabilities(flavour: Flavour) -> dict[str, Any]:
    """Return the compute capabilities TensorRT-RTX builds for, e.g. ``8.6`` for SM86."""
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in package(flavour).ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def target_capabilities(flavour: Flavour, options: Build) -> list[str]:
    """Return the wanted compute capabilities, and that of the GPU here where it is possible."""
    known = known_capabilities(flavour)
    here = [device.compute_capability for device in cuda_devices()[:1]]
    return list(dict.fromkeys([*options.compute_capabilities, *(c for c in here if c in known)]))
