"""Run TensorRT engines on a CUDA device, where torch holds the tensors, and time their layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import BackendError
from models.hashing import file_sha256
from pipeline.artifacts import CACHE, digest, locked, replace_file
from pipeline.engines.interface import Bound, Engine, Images, LayerTime, Logits
from pipeline.engines.machine import cuda_devices, cuda_driver
from pipeline.engines.tensorrt import Flavour, messages, open_plan, package, read, version
from pipeline.engines.tensorrt_layers import layer_times, parse_layers

KERNELS = CACHE / "kernels"  # what TensorRT-RTX has compiled for the GPU here


@dataclass(frozen=True)
class Opened:
    """An engine on the current device."""

    flavour: Flavour
    engine: Any
    runtime: Any  # of TensorRT-RTX: how contexts run; None else


@dataclass(frozen=True)
class Placed:
    """A context with its tensors on the device and in host memory, and the stream it runs on."""

    title: str
    context: Any
    stream: Any
    images: tuple[Any, Any]  # pinned host tensor, device tensor
    logits: tuple[Any, Any]

    def enqueue(self) -> None:
        """Start one run on the device."""
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise BackendError(f"{self.title} cannot run the engine")

    def run(self) -> Logits:
        """Upload the images, run, fetch the logits."""
        import torch

        (given, images), (wanted, logits) = self.images, self.logits
        with torch.cuda.stream(self.stream):
            images.copy_(given, non_blocking=True)
            self.enqueue()
            wanted.copy_(logits, non_blocking=True)
        self.stream.synchronize()
        result: Logits = wanted.numpy().copy()
        return result


def load(flavour: Flavour, path: Path, _threads: int) -> Engine:
    """Open an engine on the current CUDA device; CPU threads play no part.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the engine is damaged, or of another version or another GPU.
    """
    engine = open_plan(flavour, path)
    if not flavour.ahead_of_time:
        return partial(_bind, Opened(flavour, engine, None))
    with _kept_kernels(flavour, path, engine) as runtime:
        engine.create_execution_context(runtime)  # compiles what is not in the cache yet
    return partial(_bind, Opened(flavour, engine, runtime))


def _bind(opened: Opened, images: Images) -> Bound:
    placed = _place(opened, images)
    placed.run()  # so that what a first run sets up is in no timing
    replay, how = _replay(placed)
    return Bound(
        run=placed.run,
        device_ms=partial(_device_ms, placed, replay),
        device_how=how,
        layer_times=partial(_layer_times, opened, images),
    )


def _place(opened: Opened, images: Images) -> Placed:
    """Put images and room for logits on the device, in a context of their own."""
    import torch

    flavour, engine = opened.flavour, opened.engine
    trt, said = package(flavour), messages(flavour)
    said.clear()
    context = engine.create_execution_context(*filter(None, [opened.runtime]))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
    given, wanted = names  # the input sorts first
    if not context.set_input_shape(given, images.shape):
        raise BackendError(
            f"{flavour.title} refuses images of {images.shape}; build.batch says which batches "
            f"engines take: {'; '.join(said.errors)}"
        )
    shape, dtype = context.get_tensor_shape(wanted), trt.nptype(engine.get_tensor_dtype(wanted))
    host = [
        torch.from_numpy(np.array(images, order="C")).pin_memory(),
        torch.from_numpy(np.empty(tuple(shape), dtype)).pin_memory(),
    ]
    device = [tensor.cuda() for tensor in host]
    for name, tensor in zip(names, device, strict=True):
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()  # the upload ran on another stream
    return Placed(flavour.title, context, stream, (host[0], device[0]), (host[1], device[1]))


def _replay(placed: Placed) -> tuple[Callable[[], None], str]:
    """Return what starts one run on the device, and how: a CUDA graph where one can be captured."""
    import torch

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=placed.stream):
            placed.enqueue()
    except (BackendError, RuntimeError) as e:
        torch.cuda.synchronize()
        [reason, *_] = str(e).splitlines() or [type(e).__name__]
        return placed.enqueue, f"enqueue, as no CUDA graph can be captured: {reason}"
    return graph.replay, "CUDA graph"


def _device_ms(placed: Placed, replay: Callable[[], None]) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(placed.stream):
        start.record()
        replay()
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _layer_times(opened: Opened, images: Images) -> list[LayerTime]:
    """Run once with a profiler, in a context of its own: profiling slows the runs of a context."""
    trt = package(opened.flavour)
    reported: list[tuple[str, float]] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append((layer_name, ms))

    placed = _place(opened, images)
    placed.run()
    profiler = Profiler()
    placed.context.profiler = profiler
    placed.run()
    inspector = opened.engine.create_engine_inspector()
    inspector.execution_context = placed.context
    described = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layer_times(parse_layers(described), reported)


@contextmanager
def _kept_kernels(flavour: Flavour, path: Path, engine: Any) -> Iterator[Any]:
    """Yield how TensorRT-RTX runs contexts, with kernels from earlier runs; keep the new ones.

    It compiles kernels for the GPU at hand when an engine is first used on it.
    """
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
        yield runtime
        with replace_file(kept) as temporary:
            temporary.write_bytes(compiled.serialize())
