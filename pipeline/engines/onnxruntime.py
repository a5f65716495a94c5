"""ONNX Runtime: graphs optimised ahead of time, run on the CPU, or on CUDA where it can."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.engines.interface import Bound, Engine, Evidence, Images, Job, Logits, Run
from pipeline.engines.machine import cpu_features, cpu_name, cuda_devices, usable_cores
from pipeline.engines.messages import captured_stderr
from pipeline.engines.onnxruntime_graph import computes_in
from pipeline.engines.weights import weight_bytes
from pipeline.params import Build

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the package is imported
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WARNINGS, NOTHING = 2, 4  # errors are raised
STAMP = re.compile(r"\x1b\[[\d;]*m|[\d-]+ [\d:.]+ (?=\[)")  # colours and the time of a message


def version() -> str:
    """Return the version of the package."""
    import onnxruntime

    return str(onnxruntime.__version__)


def check() -> None:
    """Raise `BackendUnavailable` where the package is not installed."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable(f"onnxruntime cannot be imported ({e}); pip install .") from e


def runnable(_: Build) -> None:
    """Do nothing: there is always a CPU."""


def target(_: Build) -> dict[str, Any]:
    """Return the CPU, by which weights are laid out, and the GPU where one is used."""
    on_gpu = _providers()[0] != CPU
    return {
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "device": cuda_devices()[0].name if on_gpu else None,
    }


def build(job: Job) -> list[str]:
    """Write the graph as ONNX Runtime optimises it for this machine, constants folded, nodes fused.

    Returns:
        ONNX Runtime's warnings.

    Raises:
        ArtifactError: there is no such file.
        BackendError: ONNX Runtime cannot read the network, or has no operators of its types.
    """
    with captured_stderr() as printed:
        _open(job.source, usable_cores(), optimise=True, optimised=job.target)
    return [STAMP.sub("", line) for line in printed]


def inspect(job: Job) -> Evidence:
    """Return the types of weights and operators in the optimised graph, which is what runs."""
    return Evidence("optimised graph", weight_bytes(job.target), computes_in(job.target))


def load(path: Path, threads: int) -> Engine:
    """Open an optimised graph as it is, without optimising it again.

    Raises:
        ArtifactError: there is no such file.
        BackendError: ONNX Runtime cannot read the network.
    """
    return partial(_bind, _open(path, threads, optimise=False))


def optimised(path: Path, threads: int) -> Engine:
    """Open any ONNX network, optimised in memory as `build` writes it.

    Raises:
        ArtifactError: there is no such file.
        BackendError: ONNX Runtime cannot read the network.
    """
    return partial(_bind, _open(path, threads, optimise=True))


def runner(
    source: Path | bytes, threads: int | None = None, *, integer_kernels: bool = True
) -> Run:
    """Open any ONNX network, a file or its bytes, as a function from images to logits.

    It runs on the CPU, in full float32: the reference for everything else.

    Args:
        source: the network.
        threads: all cores if None.
        integer_kernels: joins Q/DQ and what is between them into ONNX Runtime's int8 operators;
            else each is computed in float32, as the ONNX standard defines it. For weights and
            activations that are both signed the latter is more than twice as fast.

    Raises:
        ArtifactError: there is no such file.
        BackendError: ONNX Runtime cannot read the network, or later cannot run it.
    """
    session = _open(
        source,
        threads or usable_cores(),
        optimise=True,
        providers=[CPU],
        integer_kernels=integer_kernels,
    )
    return lambda images: _bind(session, images).run()


def _open(
    source: Path | bytes,
    threads: int,
    *,
    optimise: bool,
    optimised: Path | None = None,
    providers: list[Any] | None = None,
    integer_kernels: bool = True,
) -> Any:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNINGS if optimised else NOTHING
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    options.intra_op_num_threads = threads
    # A session's threads go on spinning after a run and take the cores from the next session:
    # without this, levels timed in turn came out up to twice as slow as alone.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integer_kernels else "1")
    if isinstance(source, Path) and not source.exists():
        raise ArtifactError(f"{source} is missing; `dvc repro` makes it")
    name = source if isinstance(source, Path) else f"a network of {len(source)} bytes"
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers or _providers())
    except _errors() as e:
        raise BackendError(f"ONNX Runtime cannot open {name}: {e}") from e
    if not session.get_inputs() or not session.get_outputs():
        raise BackendError(f"ONNX Runtime cannot run {name}: it has no input or no output")
    return session


def _providers() -> list[Any]:
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers() and cuda_devices():
        return [(CUDA, {"use_tf32": 0}), CPU]  # float32 as it says
    return [CPU]


def _errors() -> tuple[type[Exception], ...]:
    """Return all that ONNX Runtime raises: its own exceptions have no base in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (m for m in vars(state).values() if isinstance(m, type) and issubclass(m, Exception))
    return (RuntimeError, *own)


def _bind(session: Any, images: Images) -> Bound:
    """Bind images where they lie; with CUDA, every run copies them to the device and logits back.

    ONNX Runtime shows no CUDA stream of its own, so there is no time of the device alone.
    """
    if session.get_providers()[0] == CUDA:
        [given], [wanted] = session.get_inputs(), session.get_outputs()
        feed = {given.name: np.array(images, order="C")}
        return Bound(lambda: _guarded(lambda: session.run([wanted.name], feed)[0], images))
    return Bound(partial(_guarded, _bound_in_place(session, images), images))


def _bound_in_place(session: Any, images: Images) -> Callable[[], Logits]:
    import onnxruntime

    placed = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images))
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, placed)
    binding.bind_output(session.get_outputs()[0].name)

    def run() -> Logits:
        session.run_with_iobinding(binding)
        logits: Logits = binding.copy_outputs_to_cpu()[0]
        return logits

    return run


def _guarded(run: Callable[[], Logits], images: Images) -> Logits:
    try:
        return run()
    except _errors() as e:
        raise BackendError(
            f"ONNX Runtime cannot run the network on images of {images.shape}: {e}"
        ) from e
