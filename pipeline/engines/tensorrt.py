"""TensorRT and TensorRT-RTX, one API in two packages: the network is built as its graph is typed.

TensorRT-RTX builds ahead of time for the GPUs named in params.yaml and needs none to do so;
TensorRT builds for the GPU it runs on. Both need a CUDA device to run, where torch holds the
tensors. Each package loads its libraries for itself alone (RTLD_LOCAL), so both fit in one process.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.engines.interface import Engine, Images, Logits
from pipeline.engines.machine import cuda_devices
from pipeline.params import Batch, Build


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


def version(flavour: Flavour) -> str:
    """Return the version of the package."""
    return str(_import(flavour).__version__)


def check(flavour: Flavour) -> None:
    """Raise `BackendUnavailable` without the package, or without the GPU it needs to build."""
    _import(flavour)
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
    trt = _import(flavour)
    if devices[0].compute_capability not in _targets(trt, options.compute_capabilities):
        raise BackendUnavailable(
            f"{flavour.title} {trt.__version__} does not build for {devices[0].name}, of compute "
            f"capability {devices[0].compute_capability}, but for {', '.join(_known(trt))}"
        )


def build(flavour: Flavour, source: Path, target: Path, options: Build) -> None:
    """Build the engine of an ONNX file, for any batch from ``options.batch`` min to max.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the file is not a network that TensorRT can read or build, with its messages,
            or a compute capability is unknown to it.
    """
    trt, messages = _import(flavour), _messages(flavour)
    messages.errors.clear()
    builder = trt.Builder(messages)
    config = builder.create_builder_config()
    if flavour.ahead_of_time:
        _set_targets(trt, config, options.compute_capabilities)
    # TensorRT 11 types every network strongly; 10 has to be asked.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(_read(source)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = dict.fromkeys(f"{e.node_operator()}: {e.desc()}".strip(": ") for e in errors)
        raise BackendError(f"{flavour.title} cannot read {source}: {'; '.join(found)}")
    config.add_optimization_profile(_profile(builder, network.get_input(0), options.batch))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{flavour.title} cannot build {source}: {'; '.join(messages.errors)}")
    target.write_bytes(plan)


def load(flavour: Flavour, path: Path, _threads: int) -> Engine:
    """Open an engine on the current CUDA device; CPU threads play no part.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the engine is damaged, or of another version or another GPU.
    """
    trt, messages = _import(flavour), _messages(flavour)
    messages.errors.clear()
    engine = trt.Runtime(messages).deserialize_cuda_engine(_read(path))
    if engine is None:
        raise BackendError(
            f"{flavour.title} cannot open {path}; run the build stage again: "
            f"{'; '.join(messages.errors)}"
        )
    return partial(_bind, flavour, engine)


def _import(flavour: Flavour) -> Any:
    try:
        return importlib.import_module(flavour.package)
    except (ImportError, OSError) as e:
        raise BackendUnavailable(f"{flavour.package} is not installed ({e}); {flavour.fix}") from e


@cache
def _messages(flavour: Flavour) -> Any:
    """Return the logger that keeps errors; a process may have only one for each package."""
    trt = _import(flavour)

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Messages()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e


def _known(trt: Any) -> dict[str, Any]:
    """Return the compute capabilities TensorRT-RTX builds for, e.g. ``8.6`` for SM86."""
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def _targets(trt: Any, wanted: list[str]) -> list[str]:
    """Return the wanted compute capabilities, and that of the GPU here where it is possible."""
    here = [device.compute_capability for device in cuda_devices()[:1]]
    return list(dict.fromkeys([*wanted, *(own for own in here if own in _known(trt))]))


def _set_targets(trt: Any, config: Any, compute_capabilities: list[str]) -> None:
    known, targets = _known(trt), _targets(trt, compute_capabilities)
    for wanted in targets:
        if wanted not in known:
            raise BackendError(
                f"build.compute_capabilities has {wanted!r}, which TensorRT-RTX "
                f"{trt.__version__} cannot build for; it knows {', '.join(known)}"
            )
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(known[target], index)


def _profile(builder: Any, images: Any, batch: Batch) -> Any:
    _, *size = images.shape
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *((n, *size) for n in (batch.min, batch.opt, batch.max)))
    return profile


def _bind(flavour: Flavour, engine: Any, images: Images) -> Callable[[], Logits]:
    import torch

    trt, messages = _import(flavour), _messages(flavour)
    context = _context(flavour, engine)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    given, wanted = names  # the input sorts first
    if not context.set_input_shape(given, images.shape):
        raise BackendError(
            f"{flavour.title} refuses images of {images.shape}; build.batch says which batches "
            f"engines take: {'; '.join(messages.errors)}"
        )
    shape, dtype = context.get_tensor_shape(wanted), trt.nptype(engine.get_tensor_dtype(wanted))
    logits = torch.from_numpy(np.empty(tuple(shape), dtype)).cuda()
    tensors = {given: torch.from_numpy(np.ascontiguousarray(images)).cuda(), wanted: logits}
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()  # the upload ran on another stream

    def run() -> Logits:
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise BackendError(f"{flavour.title} cannot run: {'; '.join(messages.errors)}")
        stream.synchronize()
        return logits.cpu().numpy()

    return run


def _context(flavour: Flavour, engine: Any) -> Any:
    if not flavour.ahead_of_time:
        return engine.create_execution_context()
    # By default RTX swaps in kernels compiled for the batch size while it already runs, in the
    # middle of a measurement; eagerly, the first run waits for them.
    config = engine.create_runtime_config()
    strategies = _import(flavour).DynamicShapesKernelSpecializationStrategy
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)
