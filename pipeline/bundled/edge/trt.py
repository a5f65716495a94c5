"""Plans on the GPU, by TensorRT 10 or 11 or TensorRT-RTX: one Python API in two packages."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.cuda import CudaError, Device, first_device
from edge.files import Bundle, BundleError, checked
from edge.runtime import Images, Logits, NotHereError, Run

INSTALL = {
    "tensorrt": "install TensorRT 10 or 11 (JetPack has it)",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}


def open_plan(bundle: Bundle, backend: str) -> Run:
    """Open the plan for `backend`: the one built on this device if there is one, else as shipped.

    Raises:
        NotHereError: there is no such plan, no CUDA device, not the package, or another GPU.
        BundleError: the plan was altered, or the package cannot open or run it.
    """
    path, shipped = _plan(bundle, backend)
    try:
        device = first_device()
    except CudaError as e:
        raise NotHereError(str(e)) from e
    if shipped is not None:
        require_target(path.name, shipped["compute_capabilities"], device)
    trt = _import(backend)
    engine = _deserialised(trt, path)
    context = engine.create_execution_context()
    return lambda images: _in_profile(engine, context, trt, device, images)


def require_target(name: str, compute_capabilities: list[str], device: Device) -> None:
    """Raise `NotHereError` where a plan was built for other GPUs than this device."""
    if device.compute_capability not in compute_capabilities:
        raise NotHereError(
            f"{name} is for compute capability {', '.join(compute_capabilities)}; {device.name} "
            f"is {device.compute_capability}: build a plan here with ./rebuild.sh"
        )


def _plan(bundle: Bundle, backend: str) -> tuple[Path, dict[str, Any] | None]:
    """Return the plan's file, and what the manifest says of it unless it was built here."""
    built = bundle.folder / "built" / f"{backend}.plan"
    if built.exists():
        return built, None
    for engine in bundle.manifest["engines"]:
        if engine["backend"] == backend:
            return checked(bundle, engine["file"]), engine
    raise NotHereError(f"no plan for {backend} in this bundle: build one with ./rebuild.sh")


def _import(backend: str) -> Any:
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError) as e:
        raise NotHereError(f"{backend} is not installed ({e}); {INSTALL[backend]}") from e


def _deserialised(trt: Any, path: Path) -> Any:
    messages = _messages(trt)
    engine = trt.Runtime(messages).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BundleError(
            f"{trt.__name__} {trt.__version__} cannot open {path.name}, built with another version "
            f"or for another GPU: build it here with ./rebuild.sh ({'; '.join(messages.errors)})"
        )
    return engine


def _messages(trt: Any) -> Any:
    """Return a logger that keeps errors."""

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Messages()


def _in_profile(engine: Any, context: Any, trt: Any, device: Device, images: Images) -> Logits:
    """Run any number of images, in batches that the plan takes."""
    smallest, _, largest = engine.get_tensor_profile_shape(_names(engine, trt)[0], 0)
    parts = []
    for start in range(0, len(images), largest[0]):
        part = images[start : start + largest[0]]
        filled = np.resize(part, (max(len(part), smallest[0]), *part.shape[1:]))
        parts.append(_execute(engine, context, trt, device, filled)[: len(part)])
    return np.concatenate(parts)


def _names(engine: Any, trt: Any) -> tuple[str, str]:
    """Return the names of the input and of the output."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    given, wanted = names
    return given, wanted


def _execute(engine: Any, context: Any, trt: Any, device: Device, images: Images) -> Logits:
    given, wanted = _names(engine, trt)
    if not context.set_input_shape(given, images.shape):
        raise BundleError(f"the plan refuses images of {images.shape}")
    shape = tuple(context.get_tensor_shape(wanted))
    logits: NDArray[np.float32] = np.empty(shape, trt.nptype(engine.get_tensor_dtype(wanted)))
    sizes = {given: images.nbytes, wanted: logits.nbytes}
    try:
        addresses = {name: device.allocate(size) for name, size in sizes.items()}
        stream = device.stream()
        device.upload(addresses[given], np.ascontiguousarray(images))
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(stream):
            raise BundleError("TensorRT could not run the plan")
        device.wait(stream)
        device.download(logits, addresses[wanted])
        for address in addresses.values():
            device.free(address)
    except CudaError as e:
        raise BundleError(f"the GPU failed: {e}") from e
    return logits
