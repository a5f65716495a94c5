"""Kernels that TensorRT-RTX compiled for the GPU at hand, kept from one run to the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hashing import file_sha256
from pipeline.artifacts import CACHE, digest, locked, replace_file
from pipeline.engines.machine import cuda_devices, cuda_driver
from pipeline.engines.tensorrt import Flavour, package, read, version

KERNELS = CACHE / "kernels"


@dataclass(frozen=True)
class Kernels:
    """How contexts of one engine run, and the kernels compiled for them."""

    runtime: Any
    compiled: Any
    kept: Path

    def keep(self) -> None:
        """Store what has been compiled so far."""
        with locked(self.kept), replace_file(self.kept) as temporary:
            temporary.write_bytes(self.compiled.serialize())


def kernels(flavour: Flavour, path: Path, engine: Any) -> Kernels:
    """Return how to run an engine of TensorRT-RTX, with the kernels of earlier runs."""
    runtime = engine.create_runtime_config()
    # By default kernels made for the batch size are swapped in while the engine already runs, in
    # the middle of a measurement; eagerly, the first run waits for them.
    strategies = package(flavour).DynamicShapesKernelSpecializationStrategy
    runtime.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    machine = [version(flavour), cuda_devices()[0].name, cuda_driver(), file_sha256(path)]
    kept = KERNELS / digest(machine)
    compiled = runtime.create_runtime_cache()
    with locked(kept):
        if kept.exists():
            compiled.deserialize(read(kept))
    runtime.set_runtime_cache(compiled)
    return Kernels(runtime, compiled, kept)
