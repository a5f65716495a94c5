"""TensorRT and TensorRT-RTX as backends: two instances of one class."""

from pathlib import Path

from models.errors import BackendUnavailable
from pipeline.core.hardware import cuda_devices
from pipeline.core.params import Build
from pipeline.engines.backends.interface import Engine, Job, PrecisionEvidence
from pipeline.engines.backends.packages import read
from pipeline.engines.backends.tensorrt.build import build
from pipeline.engines.backends.tensorrt.layers import matrix_operators, parse_layers, weight_bytes
from pipeline.engines.backends.tensorrt.package import Flavour
from pipeline.engines.backends.tensorrt.run import open_engine
from pipeline.engines.backends.weights import find_weights


class TensorRT(Flavour):
    """An engine is a plan for GPUs, typed as its graph is."""

    suffix = "engine"
    tolerance = 1e-2  # TF32 in convolutions and matrix products
    strongly_typed = True

    def check(self) -> None:
        """Raise `BackendUnavailable` without the package, or without the GPU it needs to build."""
        self.version()
        if not self.ahead_of_time and not cuda_devices():
            raise BackendUnavailable(f"no CUDA device; {self.title} builds for the GPU it runs on")

    def runnable(self, options: Build) -> None:
        """Raise `BackendUnavailable` where engines built so cannot run, with the reason."""
        devices = cuda_devices()
        if not devices:
            raise BackendUnavailable("no CUDA device")
        import torch

        if not torch.cuda.is_available():
            raise BackendUnavailable(f"torch {torch.__version__} cannot use {devices[0].name}")
        built_for = self.target(options)["compute_capabilities"]
        if self.ahead_of_time and devices[0].compute_capability not in built_for:
            raise BackendUnavailable(
                f"{self.title} {self.version()} does not build for {devices[0].name}, of compute "
                f"capability {devices[0].compute_capability}, but for "
                f"{', '.join(self.known_capabilities())}"
            )

    def build(self, job: Job) -> list[str]:
        """Build a plan for any batch from ``options.batch`` min to max."""
        return build(self, job)

    def inspect(self, job: Job) -> PrecisionEvidence:
        """Return the evidence of the inspector where the plan can run, else of the plan's bytes."""
        note, information = None, "{}"
        try:
            self.runnable(job.options)
            inspector = self.open_plan(job.target).create_engine_inspector()
            information = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
        except BackendUnavailable as e:
            note = f"its layers were not seen: {e}"
        layers = parse_layers(information)
        operators = matrix_operators(layers)
        if held := weight_bytes(layers):
            return PrecisionEvidence("engine inspector", held, operators)
        found, not_found = find_weights(read(job.target), job.source)
        return PrecisionEvidence("weights found in the plan", found, operators, not_found, note)

    def load(self, path: Path, threads: int) -> Engine:
        """Open a plan on the current CUDA device; CPU threads play no part."""
        return open_engine(self, path)
