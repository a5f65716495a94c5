"""What every backend offers, so that steps treat them alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.arrays import Images, Logits
from pipeline.core.params import Build


@dataclass(frozen=True)
class LayerTime:
    """How long one layer of an engine took in one run."""

    name: str  # as the backend calls it; fused layers join names, e.g. ``conv1 + relu1``
    ms: float
    nodes: tuple[str, ...] = ()  # names of the ONNX nodes it computes, in order, where reported


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
    """One engine to build."""

    source: Path  # the ONNX file, typed as `precision` says
    target: Path  # the engine file to write
    precision: str  # fp32, fp16, bf16 or int8
    options: Build  # what the engine must run on


@dataclass(frozen=True)
class PrecisionEvidence:
    """In which types an engine holds its weights and computes; fields of `records.BuiltEngine`."""

    evidence_method: str
    weight_bytes: Mapping[str, int]
    operators: Mapping[str, int]  # empty where the engine does not report them
    weights_not_found: int = 0
    evidence_note: str | None = None


class Backend(Protocol):
    """One way to build and run engines; its methods import its package when they are called."""

    suffix: str  # of engine files, without the dot
    # Largest difference from a float32 network's logits, relative to the largest of them, that the
    # arithmetic used for float32 explains (TF32 in TensorRT).
    tolerance: float
    # It promises the types of the graph, so that an engine of others is a defect; else it may
    # choose others where the machine has no such arithmetic.
    strongly_typed: bool

    def version(self) -> str:
        """Return the version of the package."""

    def check(self) -> None:
        """Raise `BackendUnavailable` where engines cannot be built, with the fix."""

    def runnable(self, options: Build) -> None:
        """Raise `BackendUnavailable` where engines built so cannot run, with the reason."""

    def target(self, options: Build) -> dict[str, Any]:
        """Return what an engine depends on beside graph and options, as JSON.

        For plans of GPUs, `compute_capabilities` in it lists those that the plan runs on.
        """

    def build(self, job: Job) -> list[str]:
        """Write an engine; return the builder's warnings.

        Raises:
            ArtifactError: there is no such graph.
            BackendError: the graph cannot be read or built, with the builder's messages.
        """

    def inspect(self, job: Job) -> PrecisionEvidence:
        """Return the evidence for the types of an engine that was built.

        Raises:
            BackendError: the engine should run here and does not open.
        """

    def load(self, path: Path, threads: int) -> Engine:
        """Open an engine file to run on that many CPU threads.

        Raises:
            ArtifactError: there is no such file.
            BackendError: the engine is damaged, or of another version or another device.
        """
