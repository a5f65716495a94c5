"""Any ONNX network as a function from images to logits, run by ONNX Runtime.

`runner` is the reference that other graphs and engines are compared with, `bound` what times graphs
against each other. The backend `onnxruntime` opens its engines here too.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ArtifactError, BackendError
from pipeline.core.arrays import Images, Logits, Run
from pipeline.core.hardware import cuda_devices, usable_cores

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the package is imported
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WARNINGS, NOTHING = 2, 4  # are logged; errors are raised


def runner(
    source: Path | bytes, threads: int | None = None, *, integer_kernels: bool = True
) -> Run:
    """Open any ONNX network, a file or its bytes, as a function from images to logits.

    It runs on the CPU, in full float32: the reference for everything else. Raises as
    `open_session`, and later where the network cannot be run.

    Args:
        source: the network.
        threads: all cores if None.
        integer_kernels: as for `open_session`.
    """
    cores = threads or usable_cores()
    session = open_session(source, cores, [CPU], integer_kernels=integer_kernels)
    return lambda images: bind(session, images)()


def bound(path: Path, images: Images, threads: int) -> Callable[[], Logits]:
    """Open an ONNX network and bind images to it: what is returned runs it on them.

    From host memory to host memory; on CUDA where ONNX Runtime has it, else on the CPU. Raises as
    `runner`.
    """
    return bind(open_session(path, threads, providers()), images)


def open_session(
    source: Path | bytes,
    threads: int,
    providers: list[Any],
    *,
    optimise: bool = True,
    integer_kernels: bool = True,
    optimised: Path | None = None,
) -> Any:
    """Open an ONNX network as a session of ONNX Runtime.

    Args:
        source: the network, a file or its bytes.
        threads: of the CPU.
        providers: of ONNX Runtime, the preferred one first.
        optimise: folds constants and fuses operators first.
        integer_kernels: joins Q/DQ and what is between them into ONNX Runtime's int8 operators;
            else each is computed in float32, as the ONNX standard defines it. For weights and
            activations that are both signed the latter is more than twice as fast.
        optimised: writes the optimised graph here, and logs warnings.

    Raises:
        ArtifactError: there is no such file.
        BackendError: ONNX Runtime cannot read the network.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNINGS if optimised else NOTHING
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if optimised:
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
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except _errors() as e:
        raise BackendError(f"ONNX Runtime cannot open {name}: {e}") from e
    if not session.get_inputs() or not session.get_outputs():
        raise BackendError(f"ONNX Runtime cannot run {name}: it has no input or no output")
    return session


def providers() -> list[Any]:
    """Return CUDA where ONNX Runtime has it and there is a device, and the CPU."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers() and cuda_devices():
        return [(CUDA, {"use_tf32": 0}), CPU]  # float32 as it says
    return [CPU]


def bind(session: Any, images: Images) -> Callable[[], Logits]:
    """Return what runs a session on images; it raises `BackendError` where that fails.

    On the CPU the images are bound where they lie; with CUDA, every run copies them to the device
    and the logits back.
    """
    run = _with_copies if session.get_providers()[0] == CUDA else _in_place
    compute = run(session, images)

    def guarded() -> Logits:
        try:
            return compute()
        except _errors() as e:
            raise BackendError(
                f"ONNX Runtime cannot run the network on images of {images.shape}: {e}"
            ) from e

    return guarded


def _with_copies(session: Any, images: Images) -> Callable[[], Logits]:
    [given], [wanted] = session.get_inputs(), session.get_outputs()
    feed = {given.name: np.array(images, order="C")}
    return lambda: session.run([wanted.name], feed)[0]


def _in_place(session: Any, images: Images) -> Callable[[], Logits]:
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


def _errors() -> tuple[type[Exception], ...]:
    """Return all that ONNX Runtime raises: its own exceptions have no base in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (m for m in vars(state).values() if isinstance(m, type) and issubclass(m, Exception))
    return (RuntimeError, *own)
