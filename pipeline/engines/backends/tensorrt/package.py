"""TensorRT and TensorRT-RTX, one API in two packages: which are here, and what they can do.

TensorRT-RTX builds ahead of time for the GPUs named in params.yaml and needs none to do so;
TensorRT builds for the GPU it runs on. Both need a CUDA device to run. Each package loads its
libraries for itself alone (RTLD_LOCAL), so both fit in one process.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import BackendError
from pipeline.core.hardware import cuda_devices, cuda_driver
from pipeline.core.params import Build
from pipeline.engines.backends.packages import import_package, read

AMPERE_PLUS = "8.0+"  # the compute capabilities of hardware_compatibility ampere_plus


@dataclass(frozen=True)
class Flavour:
    """One of the two packages."""

    package: str
    title: str
    fix: str  # where the package is not installed
    ahead_of_time: bool  # builds without a GPU, for the compute capabilities it is given

    @property
    def trt(self) -> Any:
        """The package, imported; `BackendUnavailable` where it is not installed."""
        return import_package(self.package, self.fix)

    def version(self) -> str:
        """Return the version of the package."""
        return str(self.trt.__version__)

    @cached_property
    def logger(self) -> Any:
        """The logger, with lists `errors` and `warnings`; a process may have only one."""
        severity_of = self.trt.ILogger.Severity

        class Logger(self.trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.errors: list[str] = []
                self.warnings: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= severity_of.ERROR:
                    self.errors.append(message)
                elif severity == severity_of.WARNING:
                    self.warnings.append(message)

            def clear(self) -> None:
                self.errors.clear()
                self.warnings.clear()

        return Logger()

    def open_plan(self, path: Path) -> Any:
        """Deserialise an engine on the current CUDA device.

        Raises:
            ArtifactError: there is no such file.
            BackendError: the engine is damaged, or of another version or another GPU.
        """
        self.logger.clear()
        runtime = self.trt.Runtime(self.logger)
        # A version-compatible plan brings its runtime along as host code. Plans are code in any
        # case: only those that Shoal has built, or a bundle that was verified, are opened.
        runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(read(path))
        if engine is None:
            raise BackendError(
                f"{self.title} cannot open {path}; run the build stage again: "
                f"{'; '.join(self.logger.errors)}"
            )
        return engine

    def known_capabilities(self) -> dict[str, Any]:
        """Return the compute capabilities TensorRT-RTX builds for, e.g. ``8.6`` for SM86."""
        return {
            f"{name[2:-1]}.{name[-1]}": value
            for name, value in self.trt.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }

    def target(self, options: Build) -> dict[str, Any]:
        """Return what engines are built for: `compute_capabilities`, and the GPU and driver here.

        TensorRT-RTX needs no GPU to build, so its engines depend on none: they are for the wanted
        compute capabilities, and that of the GPU here where it is possible. ``8.0+`` is 8.0 and
        later.
        """
        devices = cuda_devices()
        if self.ahead_of_time:
            known = self.known_capabilities()
            here = [d.compute_capability for d in devices[:1] if d.compute_capability in known]
            return {"compute_capabilities": [*dict.fromkeys(options.compute_capabilities + here)]}
        later = options.hardware_compatibility == "ampere_plus"
        return {
            "device": devices[0].name,
            "compute_capabilities": [AMPERE_PLUS if later else devices[0].compute_capability],
            "driver": cuda_driver(),
        }
