"""Run TensorRT engines on a CUDA device, where torch holds the tensors, and time their layers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BackendError
from pipeline.engines.interface import Bound, Engine, Images, LayerTime, Logits
from pipeline.engines.tensorrt import Flavour, messages, open_plan, package
from pipeline.engines.tensorrt_kernels import Kernels, kernels
from pipeline.engines.tensorrt_layers import layer_times, parse_layers

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """An execution context for one shape of images, its tensors on the device, its stream."""

    title: str
    context: Any
    stream: Any
    images: Any
    logits: Any

    def enqueue(self) -> None:
        """Start one run on the device."""
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise BackendError(f"{self.title} cannot run the engine")

    def run(self, host_images: Any, host_logits: Any) -> Logits:
        """Upload the images, run, fetch the logits."""
        import torch

        with torch.cuda.stream(self.stream):
            self.images.copy_(host_images, non_blocking=True)
            self.enqueue()
            host_logits.copy_(self.logits, non_blocking=True)
        self.stream.synchronize()
        logits: Logits = host_logits.numpy().copy()
        return logits


@dataclass(frozen=True)
class Replay:
    """What starts one run on the device, and how it does."""

    start: Callable[[], None]
    how: str


@dataclass(frozen=True)
class Opened:
    """An engine on the current device, and its contexts: one for each shape, made once."""

    flavour: Flavour
    engine: Any
    kernels: Kernels | None  # of TensorRT-RTX
    contexts: dict[Shape, tuple[Context, Replay]] = field(default_factory=dict)


def load(flavour: Flavour, path: Path, _threads: int) -> Engine:
    """Open an engine on the current CUDA device; CPU threads play no part.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the engine is damaged, or of another version or another GPU.
    """
    engine = open_plan(flavour, path)
    compiled = kernels(flavour, path, engine) if flavour.ahead_of_time else None
    return partial(_bind, Opened(flavour, engine, compiled))


def _bind(opened: Opened, images: Images) -> Bound:
    import torch

    if images.shape not in opened.contexts:
        opened.contexts[images.shape] = _ready(opened, images.shape)
    context, replay = opened.contexts[images.shape]
    host_images = torch.from_numpy(np.array(images, order="C")).pin_memory()
    host_logits = torch.empty_like(context.logits, device="cpu", pin_memory=True)
    return Bound(
        run=partial(context.run, host_images, host_logits),
        device_ms=partial(_device_ms, context, replay),
        device_how=replay.how,
        layer_times=partial(_layer_times, opened, host_images),
    )


def _ready(opened: Opened, shape: Shape) -> tuple[Context, Replay]:
    """Return a context that has run once: what the first run sets up is in no timing."""
    context = _context(opened, shape)
    context.enqueue()
    context.stream.synchronize()
    if opened.kernels:
        opened.kernels.keep()
    return context, _replay(context)


def _context(opened: Opened, shape: Shape) -> Context:
    import torch

    flavour, engine = opened.flavour, opened.engine
    trt, said = package(flavour), messages(flavour)
    said.clear()
    how = [opened.kernels.runtime] if opened.kernels else []
    context = engine.create_execution_context(*how)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)  # first
    if not context.set_input_shape(names[0], shape):
        raise BackendError(
            f"{flavour.title} refuses images of {shape}; build.batch says which batches engines "
            f"take: {'; '.join(said.errors)}"
        )
    tensors = [_empty(trt, engine, name, context.get_tensor_shape(name)) for name in names]
    for name, tensor in zip(names, tensors, strict=True):
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return Context(flavour.title, context, stream, *tensors)


def _empty(trt: Any, engine: Any, name: str, shape: Any) -> Any:
    import torch

    values = np.empty(tuple(shape), trt.nptype(engine.get_tensor_dtype(name)))
    return torch.from_numpy(values).cuda()


def _replay(context: Context) -> Replay:
    """Capture a run in a CUDA graph, whose start costs the host almost nothing, where it can be."""
    import torch

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=context.stream):
            context.enqueue()
    except (BackendError, RuntimeError) as e:
        torch.cuda.synchronize()
        reason = f"enqueue, as no CUDA graph can be captured: {e}"
        return Replay(context.enqueue, reason.splitlines()[0])
    return Replay(graph.replay, "CUDA graph")


def _device_ms(context: Context, replay: Replay) -> float:
    import torch

    event = partial(torch.cuda.Event, enable_timing=True)
    start, end = event(), event()
    with torch.cuda.stream(context.stream):
        start.record()
        replay.start()
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _layer_times(opened: Opened, host_images: Any) -> list[LayerTime]:
    """Run once with a profiler, in a context of its own: it slows all runs of a context."""
    trt = package(opened.flavour)
    reported: list[tuple[str, float]] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append((layer_name, ms))

    context = _context(opened, tuple(host_images.shape))
    context.images.copy_(host_images)
    profiler = Profiler()
    context.context.profiler = profiler
    for _ in range(2):  # the first run sets things up
        reported.clear()
        context.enqueue()
        context.stream.synchronize()
    inspector = opened.engine.create_engine_inspector()
    inspector.execution_context = context.context
    described = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layer_times(parse_layers(described), reported)
