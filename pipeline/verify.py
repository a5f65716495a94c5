"""The parity ladder: from the trained network to the bytes of every engine, one rung at a time.

Each rung computes the same real validation images and is compared with the one above it. The upper
rungs were proven where they were made (`export`, `collapse`); this step adds the graph of every
precision and the engine of every backend, with the accuracy of exactly these bytes on all
validation and test images. A rung that fails stops its line: nothing below it is timed or shipped.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from models.errors import BackendError, BackendUnavailable, ParityError
from models.hashing import file_sha256
from pipeline.data import Dataset, Split, batches
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Engine, Images, Logits, Run
from pipeline.engines.machine import usable_cores
from pipeline.evaluate import accuracy_pct
from pipeline.params import Batch, Build
from pipeline.parity import Parity, compare
from pipeline.repairs import ACCURACIES, AS_PLANNED, Level, is_repaired, shipped_accuracy_pct
from pipeline.tolerances import TOLERANCES, Tolerance, violations

Status = Literal["passed", "failed", "not run"]
BATCH = 256


@dataclass(frozen=True)
class Rung:
    """One step of the ladder; numbers are absent where nothing was computed."""

    # eager torch | bypassed torch | repaired torch | onnx | collapsed onnx | precision | engine
    rung: str
    precision: str | None = None
    backend: str | None = None
    status: Status = "passed"
    reason: str | None = None  # why it failed or did not run, or how it was run
    tolerance: dict[str, float] | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    val_accuracy_pct: float | None = None
    test_accuracy_pct: float | None = None
    sha256: str | None = None  # of the graph's or engine's file: what was proven is these bytes


@dataclass(frozen=True)
class Inputs:
    """What every rung is measured on."""

    images: Images  # a sample of the validation images, normalised
    data: Dataset
    build: Build  # which batches engines take


def proven_rungs(
    healed: Level,
    whole: Level,
    exported: Mapping[str, Any],
    collapsed: Mapping[str, Any],
    tolerances: Mapping[str, float],
) -> list[Rung]:
    """Return the rungs that earlier stages have proven, from their metrics.

    Args:
        healed: the level, of `heal`.
        whole: level 0 of `heal`.
        exported: the metrics of `export`.
        collapsed: the level, of `collapse`.
        tolerances: of `export` and `collapse`.
    """
    onnx = Rung("onnx", tolerance=_only(tolerances["export"]), **exported["parity"])
    # A repaired level's graph does not come from the exported one.
    repaired = Rung("repaired torch", val_accuracy_pct=shipped_accuracy_pct(healed))
    return [
        Rung("eager torch", val_accuracy_pct=whole[ACCURACIES[AS_PLANNED]]),
        Rung("bypassed torch", val_accuracy_pct=healed[ACCURACIES[AS_PLANNED]]),
        repaired if is_repaired(healed) else onnx,
        Rung(
            "collapsed onnx",
            tolerance=_only(tolerances["collapse"]),
            **collapsed["parity"],
            val_accuracy_pct=collapsed["val_accuracy_pct"],
            test_accuracy_pct=collapsed["test_accuracy_pct"],
        ),
    ]


def precision_rung(
    precision: str,
    run: Run,
    expected: Logits,
    inputs: Inputs,
    *,
    sha256: str,
    backend: str | None = None,
    note: str | None = None,
) -> Rung:
    """Compare a precision's graph with the collapsed one and measure its accuracy.

    Args:
        precision: of the graph.
        run: the graph.
        expected: the collapsed graph's logits of ``inputs.images``.
        inputs: what to measure on.
        sha256: of the graph's file.
        backend: for which alone the graph is meant, if there is one.
        note: how the graph is run, where not as it stands.
    """
    tolerance = TOLERANCES[precision]
    rung = Rung(
        "precision", precision, backend, reason=note, tolerance=asdict(tolerance), sha256=sha256
    )
    return _measured(rung, run, expected, inputs, tolerance)


def same_bytes_rung(precision: str, proven: Rung, sha256: str) -> Rung:
    """Return the rung of a graph that is the collapsed one, byte for byte."""
    return Rung(
        "precision",
        precision,
        reason="the collapsed graph, byte for byte",
        tolerance=asdict(TOLERANCES[precision]),
        **asdict(Parity(max_abs=0.0, max_rel=0.0, cosine=1.0, top1_agreement=1.0)),
        val_accuracy_pct=proven.val_accuracy_pct,
        test_accuracy_pct=proven.test_accuracy_pct,
        sha256=sha256,
    )


def engine_rung(above: Rung, backend: str, engine: Path, run_above: Run, inputs: Inputs) -> Rung:
    """Compare an engine with the graph it was built from and measure its accuracy.

    Where the rung above failed, or the engine cannot run on this machine, it is not run.

    Args:
        above: the rung of the graph.
        backend: of the engine.
        engine: its file.
        run_above: the graph.
        inputs: what to measure on.
    """
    assert above.precision is not None
    tolerance = engine_tolerance(above.precision, backend)
    rung = Rung("engine", above.precision, backend, tolerance=asdict(tolerance))
    if above.status != "passed":
        return replace(rung, status="not run", reason=f"the rung above it: {above.status}")
    try:
        BACKENDS[backend].runnable(inputs.build)
        opened = BACKENDS[backend].load(engine, usable_cores())
    except BackendUnavailable as e:
        return replace(rung, status="not run", reason=str(e))
    rung = replace(rung, sha256=file_sha256(engine))
    run = partial(_in_profile, opened, inputs.build.batch)
    return _measured(rung, run, run_above(inputs.images), inputs, tolerance)


def engine_tolerance(precision: str, backend: str) -> Tolerance:
    """Return how far an engine may be from its graph: other kernels, the same types.

    In float32 that is what the backend's arithmetic explains (TF32 in TensorRT), else what the
    precision explains once more.
    """
    tolerance = TOLERANCES[precision]
    if precision != "fp32":
        return tolerance
    return replace(tolerance, max_rel=BACKENDS[backend].tolerance)


def _measured(rung: Rung, run: Run, expected: Logits, inputs: Inputs, tolerance: Tolerance) -> Rung:
    """Return the rung with its numbers; failed where they are worse than the tolerance."""
    try:
        parity = compare(expected, run(inputs.images))
    except (BackendError, ParityError) as e:
        return replace(rung, status="failed", reason=str(e))
    missed = violations(parity, tolerance)
    if missed:
        return replace(rung, status="failed", reason="; ".join(missed), **asdict(parity))
    data = inputs.data
    return replace(
        rung,
        **asdict(parity),
        val_accuracy_pct=_accuracy_pct(run, data.validation, data),
        test_accuracy_pct=_accuracy_pct(run, data.test, data),
    )


def _accuracy_pct(run: Run, split: Split, data: Dataset) -> float:
    loader = batches(split, BATCH, mean=data.mean, std=data.std, device="cpu")
    return accuracy_pct(lambda x: torch.from_numpy(run(x.numpy())), loader)


def _in_profile(engine: Engine, batch: Batch, images: Images) -> Logits:
    """Run an engine on any number of images, in batches that it takes."""
    parts = []
    for start in range(0, len(images), batch.max):
        part = images[start : start + batch.max]
        filled = part if len(part) >= batch.min else np.resize(part, (batch.min, *part.shape[1:]))
        parts.append(engine(filled).run()[: len(part)])
    return np.concatenate(parts)


def _only(max_rel: float) -> dict[str, float]:
    return {"max_rel": max_rel}
