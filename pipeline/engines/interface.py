"""What every engine module offers, so that steps treat all backends alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipeline.params import Build

Images = Float32[np.ndarray, "n c h w"]
Logits = Float32[np.ndarray, "n k"]
Run = Callable[[Images], Logits]

# An open engine puts images on its device once; each call of what it returns runs the network on
# them and waits until the logits are in host memory. So timing leaves the upload of images out.
Engine = Callable[[Images], Callable[[], Logits]]


@dataclass(frozen=True)
class Backend:
    """One way to build and run engines; its functions import the backend's package when called.

    Attributes:
        suffix: of engine files, without the dot.
        precision: the arithmetic it uses for a network of float32 weights.
        tolerance: largest difference from the ONNX network's logits, relative to the largest of
            them, that this precision explains.
        version: returns the version of the package.
        check: raises `BackendUnavailable` where engines cannot be built, with the fix.
        runnable: raises `BackendUnavailable` where engines built so cannot run, with the reason.
        build: writes the engine of an ONNX file to a path; raises `BackendError`.
        load: opens an engine file to run on that many CPU threads; raises `BackendError`.
    """

    suffix: str
    precision: str
    tolerance: float
    version: Callable[[], str]
    check: Callable[[], None]
    runnable: Callable[[Build], None]
    build: Callable[[Path, Path, Build], None]
    load: Callable[[Path, int], Engine]
