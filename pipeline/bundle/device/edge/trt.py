"""Plans on the GPU, by TensorRT 10 or 11 or TensorRT-RTX: one Python API in two packages."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.checks import BundleError
from edge.cuda import CudaError, Device, first_device
from edge.files import Bundle, checked, plain
from edge.proofs import built_plan, is_proven
from edge.runtime import Images, Logits, NotHereError, Run, require_logits

INSTALL = {
    "tensorrt": "install TensorRT 10 or 11 (JetPack has it)",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}


@dataclass(frozen=True)
class Plan:
    """An open plan."""

    owners: tuple[Any, Any, Any]  # logger, runtime, engine: must live as long as the context
    context: Any  # runs the engine
    device: Device
    stream: int  # of the driver
    given: str  # the input's name
    wanted: str  # the output's name
    wanted_type: Any  # as NumPy knows it
    batches: tuple[int, int]  # the smallest and the largest that the plan takes


def open_plan(bundle: Bundle, backend: str, built: str | None = None) -> Run:
    """Open the plan for `backend`: the one built and proven on this device, else as shipped.

    Args:
        bundle: of the plan.
        backend: a key of `INSTALL`.
        built: a plan of this device to be proven, by its path in the bundle.

    Raises:
        NotHereError: there is no such plan, no CUDA device, not the package, or another GPU.
        BundleError: the plan was altered, or the package cannot open or run it.
    """
    path, shipped = (plain(bundle, built), None) if built else _plan(bundle, backend)
    try:
        device = first_device()
    except CudaError as e:
        raise NotHereError(str(e)) from e
    if shipped is not None:
        require_target(path.name, shipped["compute_capabilities"], device)
    trt = _import(backend)
    try:
        plan = _opened(trt, path, device, is_shipped=shipped is not None)
    except CudaError as e:
        raise BundleError(f"the GPU failed: {e}") from e
    return lambda images: require_logits(_in_profile(plan, images), images)


def require_target(name: str, compute_capabilities: list[str], device: Device) -> None:
    """Raise `NotHereError` where a plan was built for other GPUs than this device."""
    if not any(_covers(built_for, device.compute_capability) for built_for in compute_capabilities):
        raise NotHereError(
            f"{name} is for compute capability {', '.join(compute_capabilities)}; {device.name} "
            f"is {device.compute_capability}: build a plan here with bash rebuild.sh"
        )


def _covers(built_for: str, own: str) -> bool:
    """Tell whether a plan for ``8.6``, or for ``8.0+`` and all later, runs on a GPU."""
    if not built_for.endswith("+"):
        return built_for == own
    least, here = ([int(n) for n in c.split(".")] for c in (built_for[:-1], own))
    return here >= least


def _plan(bundle: Bundle, backend: str) -> tuple[Path, dict[str, Any] | None]:
    """Return the plan's file, and what the manifest says of it unless it was built here."""
    if is_proven(bundle, backend):
        return bundle.folder / built_plan(backend), None
    for engine in bundle.manifest["engines"]:
        if engine["backend"] == backend:
            return checked(bundle, engine["file"]), engine
    if (bundle.folder / built_plan(backend)).exists():
        raise NotHereError(f"{built_plan(backend)} is not proven: run verify.py")
    raise NotHereError(f"no plan for {backend} in this bundle: build one with bash rebuild.sh")


def _import(backend: str) -> Any:
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError) as e:
        raise NotHereError(f"{backend} is not installed ({e}); {INSTALL[backend]}") from e


def _opened(trt: Any, path: Path, device: Device, *, is_shipped: bool) -> Plan:
    messages = _messages(trt)
    runtime = trt.Runtime(messages)
    # A plan for several versions holds host code; the hash of a shipped one shows that it is ours.
    runtime.engine_host_code_allowed = is_shipped
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BundleError(
            f"{trt.__name__} {trt.__version__} cannot open {path.name}, built with another version "
            f"or for another GPU: build it here with bash rebuild.sh ({'; '.join(messages.errors)})"
        )
    context = engine.create_execution_context()
    if context is None:
        raise BundleError(f"{path.name} cannot run here: {'; '.join(messages.errors)}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    smallest, _, largest = engine.get_tensor_profile_shape(names[0], 0)
    return Plan(
        owners=(messages, runtime, engine),
        context=context,
        device=device,
        stream=device.stream(),
        given=names[0],
        wanted=names[1],
        wanted_type=trt.nptype(engine.get_tensor_dtype(names[1])),
        batches=(smallest[0], largest[0]),
    )


def _messages(trt: Any) -> Any:
    """Return a logger that keeps errors."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Messages()


def _in_profile(plan: Plan, images: Images) -> Logits:
    """Run any number of images, in batches that the plan takes."""
    smallest, largest = plan.batches
    parts = []
    for start in range(0, len(images), largest):
        part = images[start : start + largest]
        filled = np.resize(part, (max(len(part), smallest), *part.shape[1:]))
        try:
            parts.append(_execute(plan, np.ascontiguousarray(filled))[: len(part)])
        except CudaError as e:
            raise BundleError(f"the GPU failed: {e}") from e
    return np.concatenate(parts)


def _execute(plan: Plan, images: Images) -> Logits:
    """Run one batch, from host memory to host memory."""
    context, device = plan.context, plan.device
    if not context.set_input_shape(plan.given, images.shape):
        raise BundleError(f"the plan does not take images of shape {images.shape}")
    logits = np.empty(tuple(context.get_tensor_shape(plan.wanted)), plan.wanted_type)
    sizes = {plan.given: images.nbytes, plan.wanted: logits.nbytes}
    addresses = {name: device.allocate(size) for name, size in sizes.items()}
    try:
        device.upload(addresses[plan.given], images)
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(plan.stream):
            raise BundleError("TensorRT could not run the plan")
        device.wait(plan.stream)
        device.download(logits, addresses[plan.wanted])
    finally:
        for address in addresses.values():
            device.free(address)
    return logits
