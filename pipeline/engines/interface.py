"""What every engine module offers, so that steps treat all backends alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from pipeline.params import Build

Images = Float32[np.ndarray, "n c h w"]
Logits = Float32[np.ndarray, "n k"]
Run = Callable[[Images], Logits]


@dataclass(frozen=True)
class LayerTime:
    """How long one layer of an engine took in one run.

    Attributes:
        name: as the backend calls it; fused layers join names, e.g. ``conv1 + relu1``.
        ms: of this run.
        nodes: names of the ONNX nodes it computes, in order; empty where the backend does not tell.
    """

    name: str
    ms: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bound:
    """An open engine with images to run on.

    Attributes:
        run: computes the logits of the images: from host memory to host memory, copies to and from
            the device included, in an array of its own. Returns when they are there.
        device_ms: runs once on images that lie on the device already and returns how long the
            device took, between two CUDA events: no copies, no host. None where there is no device.
        device_how: how `device_ms` starts the work: ``CUDA graph``, or ``enqueue`` and why.
        layer_times: runs once and returns the time of each layer, in order. The profiler slows the
            whole down, so the sum is no latency. None where the backend has no profiler.
    """

    run: Callable[[], Logits]
    device_ms: Callable[[], float] | None = None
    device_how: str | None = None
    layer_times: Callable[[], list[LayerTime]] | None = None


# An open engine: binds images, whose number and size must be those the engine was built for.
Engine = Callable[[Images], Bound]


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        source: the ONNX file, typed as `precision` says.
        target: the engine file to write.
        precision: fp32, fp16, bf16 or int8.
        options: what the engine must run on.
        scratch: a folder for what makes later builds faster; None: nothing is kept.
    """

    source: Path
    target: Path
    precision: str
    options: Build
    scratch: Path | None = None


@dataclass(frozen=True)
class Evidence:
    """In which types an engine holds its weights and computes, and how that is known.

    Attributes:
        method: how it was found out, e.g. ``optimised graph``.
        weight_bytes: of the weights that were seen, by data type as ONNX names it (``float16``).
        operators: number of convolutions and matrix products by the type they compute in; empty
            where the engine does not tell.
        unseen: number of weights that were looked for and not found.
        note: what could not be seen, and why.
    """

    method: str
    weight_bytes: Mapping[str, int]
    operators: Mapping[str, int]
    unseen: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Backend:
    """One way to build and run engines; its functions import the backend's package when called.

    Attributes:
        suffix: of engine files, without the dot.
        precision: the arithmetic it uses for a network of float32 weights.
        tolerance: largest difference from the ONNX network's logits, relative to the largest of
            them, that this precision explains.
        strongly_typed: it promises the types of the graph, so that an engine of others is a defect;
            else it may choose others where the machine has no such arithmetic.
        version: returns the version of the package.
        check: raises `BackendUnavailable` where engines cannot be built, with the fix.
        runnable: raises `BackendUnavailable` where engines built so cannot run, with the reason.
        target: returns what an engine depends on beside graph and options, as JSON; for plans of
            GPUs, `compute_capabilities` in it lists those that the plan runs on.
        build: writes an engine, returns the builder's warnings; raises `BackendError`.
        inspect: returns the evidence for the types of an engine that was built.
        load: opens an engine file to run on that many CPU threads; raises `BackendError`.
    """

    suffix: str
    precision: str
    tolerance: float
    strongly_typed: bool
    version: Callable[[], str]
    check: Callable[[], None]
    runnable: Callable[[Build], None]
    target: Callable[[Build], dict[str, Any]]
    build: Callable[[Job], list[str]]
    inspect: Callable[[Job], Evidence]
    load: Callable[[Path, int], Engine]
