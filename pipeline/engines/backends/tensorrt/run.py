"""Run TensorRT engines on a CUDA device, where torch holds the tensors, and time their layers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BackendError
from models.hashing import file_sha256
from pipeline.core.arrays import Images, Logits
from pipeline.core.artifacts import CACHE, digest, locked, replace_file
from pipeline.core.hardware import cuda_devices, cuda_driver
from pipeline.engines.backends.interface import Bound, Engine, LayerTime
from pipeline.engines.backends.tensorrt.layers import layer_times, parse_layers
from pipeline.engines.backends.tensorrt.package import Flavour

KERNELS = CACHE / "kernels"  # that TensorRT-RTX compiled for this GPU

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

    def captured(self) -> tuple[Callable[[], None], str]:
        """Return what starts a run, and how: as a CUDA graph, which costs the host almost nothing.

        Where none can be captured it is `enqueue`, and why.
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.enqueue()
        except (BackendError, RuntimeError) as e:
            torch.cuda.synchronize()
            reason = f"enqueue, as no CUDA graph can be captured: {e}"
            return self.enqueue, reason.splitlines()[0]
        return graph.replay, "CUDA graph"

    def device_ms(self, start_run: Callable[[], None]) -> float:
        """Return how long the device takes for one run."""
        import torch

        event = partial(torch.cuda.Event, enable_timing=True)
        start, end = event(), event()
        with torch.cuda.stream(self.stream):
            start.record()
            start_run()
            end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


@dataclass(frozen=True)
class Kernels:
    """How contexts of an engine of TensorRT-RTX run, and the kernels compiled for them."""

    runtime: Any
    compiled: Any
    kept: Path

    def keep(self) -> None:
        """Store what has been compiled so far."""
        with locked(self.kept), replace_file(self.kept) as temporary:
            temporary.write_bytes(self.compiled.serialize())


@dataclass(frozen=True)
class Opened:
    """An engine on the current device, and its contexts: one for each shape, made once."""

    flavour: Flavour
    engine: Any
    kernels: Kernels | None  # of TensorRT-RTX
    contexts: dict[Shape, tuple[Context, Callable[[], None], str]] = field(default_factory=dict)

    def bind(self, images: Images) -> Bound:
        """Return the engine with images to run on; raises `BackendError` where it cannot."""
        import torch

        if images.shape not in self.contexts:
            self.contexts[images.shape] = self._ready(images.shape)
        context, start_run, how = self.contexts[images.shape]
        host_images = torch.from_numpy(np.array(images, order="C")).pin_memory()
        host_logits = torch.empty_like(context.logits, device="cpu", pin_memory=True)
        return Bound(
            run=partial(context.run, host_images, host_logits),
            device_ms=partial(context.device_ms, start_run),
            device_how=how,
            layer_times=partial(self._layer_times, host_images),
        )

    def _ready(self, shape: Shape) -> tuple[Context, Callable[[], None], str]:
        """Return a context that has run once: what the first run sets up is in no timing."""
        context = self._context(shape)
        context.enqueue()
        context.stream.synchronize()
        if self.kernels:
            self.kernels.keep()
        return context, *context.captured()

    def _context(self, shape: Shape) -> Context:
        import torch

        trt, engine, log = self.flavour.trt, self.engine, self.flavour.logger
        log.clear()
        how = [self.kernels.runtime] if self.kernels else []
        context = engine.create_execution_context(*how)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
        if not context.set_input_shape(names[0], shape):
            raise BackendError(
                f"{self.flavour.title} cannot run images of {shape}; build.batch says which "
                f"batches engines take: {'; '.join(log.errors)}"
            )
        tensors = []
        for name in names:
            kind = trt.nptype(engine.get_tensor_dtype(name))
            host = np.empty(tuple(context.get_tensor_shape(name)), kind)
            tensors.append(torch.from_numpy(host).cuda())
            context.set_tensor_address(name, tensors[-1].data_ptr())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return Context(self.flavour.title, context, stream, *tensors)

    def _layer_times(self, host_images: Any) -> list[LayerTime]:
        """Run once with a profiler, in a context of its own: it slows all runs of a context."""
        trt = self.flavour.trt
        reported: list[tuple[str, float]] = []

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                reported.append((layer_name, ms))

        context = self._context(tuple(host_images.shape))
        context.images.copy_(host_images)
        profiler = Profiler()
        context.context.profiler = profiler
        for _ in range(2):  # the first run sets things up
            reported.clear()
            context.enqueue()
            context.stream.synchronize()
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = context.context
        described = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return layer_times(parse_layers(described), reported)


def open_engine(flavour: Flavour, path: Path) -> Engine:
    """Open an engine on the current CUDA device; raises as `Backend.load`."""
    engine = flavour.open_plan(path)
    kernels = _kernels(flavour, path, engine) if flavour.ahead_of_time else None
    return Opened(flavour, engine, kernels).bind


def _kernels(flavour: Flavour, path: Path, engine: Any) -> Kernels:
    """Return how to run an engine of TensorRT-RTX, with the kernels of earlier runs."""
    runtime = engine.create_runtime_config()
    # By default kernels made for the batch size are swapped in while the engine already runs, in
    # the middle of a measurement; eagerly, the first run waits for them.
    strategies = flavour.trt.DynamicShapesKernelSpecializationStrategy
    runtime.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    machine = [flavour.version(), cuda_devices()[0].name, cuda_driver(), file_sha256(path)]
    kept = KERNELS / digest(machine)
    compiled = runtime.create_runtime_cache()
    with locked(kept):
        if kept.exists():
            compiled.deserialize(kept.read_bytes())
    runtime.set_runtime_cache(compiled)
    return Kernels(runtime, compiled, kept)
