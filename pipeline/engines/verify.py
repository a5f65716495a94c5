"""The parity chain: from the trained network to the bytes of every engine, one check at a time.

A check has a reference, numbers and a verdict. All checks compute real validation images:

    torch ← onnx                                    measured by `export`, judged here
    bypassed or repaired torch ← collapsed onnx     measured by `collapse`, judged here
    collapsed onnx ← the graph of every precision
    graph ← the engine of every backend that runs here

Graphs and engines carry the accuracy of exactly these bytes on all validation and test images. A
check that fails stops its line: nothing below it is run, timed or shipped.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import BackendError, BackendUnavailable, ParityError
from models.hashing import file_sha256
from pipeline.core.arrays import Images, Logits, Run
from pipeline.core.artifacts import require_unchanged
from pipeline.core.hardware import usable_cores
from pipeline.core.params import Batch, Build
from pipeline.data.dataset import Dataset
from pipeline.engines.backends.interface import Engine
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.precision.emulation import cpu_runner
from pipeline.engines.precision.tolerances import TOLERANCES, Tolerance, violations
from pipeline.engines.records import BuildMetrics, Kind, ParityCheck, PrecisionMetrics, TypedGraph
from pipeline.export.parity import Parity, compare
from pipeline.export.records import ExportMetrics
from pipeline.export.session import runner

SAME_BYTES = "the collapsed graph, byte for byte: the sha256 of both files is the same"


@dataclass(frozen=True)
class Inputs:
    """What every check is measured on, and where the files lie."""

    images: Images  # a sample of the validation images, normalised
    data: Dataset
    build: Build  # which batches engines take
    graphs: Path  # the folder of typed graphs
    engines: Path  # the folder of engines


def earlier_check(
    level: int, check: Kind, reference: str, parity: Parity, max_rel: float, **facts: Any
) -> ParityCheck:
    """Return a check that `export` or `collapse` has measured, with its verdict.

    `reference` is the PyTorch network that the graph was compared with, `max_rel` the tolerance;
    `facts` are accuracies and the sha256 of the graph's file, where they are known.
    """
    missed = violations(parity, Tolerance(max_rel, cosine=-1, top1_agreement=0))
    return ParityCheck(
        level,
        check,
        reference,
        precision=None,
        backend=None,
        status="failed" if missed else "passed",
        reason="; ".join(missed) or None,
        tolerance={"max_rel": max_rel},
        **asdict(parity),
        **facts,
    )


def level_checks(
    exported: ExportMetrics | None,
    collapsed: ParityCheck,
    source: Path,
    typed: PrecisionMetrics,
    built: BuildMetrics,
    inputs: Inputs,
) -> Iterator[ParityCheck]:
    """Yield the checks of a level, that of a graph before those of what is made of it.

    Args:
        exported: the graph that the collapsed one was made of; None: of a repaired network.
        collapsed: the check of the level's collapsed graph.
        source: that graph.
        typed, built: all graphs and engines of the variant.
        inputs: what to measure on.

    Raises:
        ArtifactError: the collapsed graph is not the one that was checked.
    """
    if exported:
        parity, max_rel = exported.parity, exported.tolerance
        yield earlier_check(collapsed.level, "onnx", "torch", parity, max_rel)
    yield collapsed
    expected = runner(require_unchanged(source, str(collapsed.sha256)))(inputs.images)
    of_level = (graph for graph in typed.graphs if graph.level == collapsed.level)
    for precision, group in groupby(of_level, lambda graph: graph.precision):
        checked: dict[str | None, tuple[ParityCheck, Run]] = {}
        for graph in group:
            file = inputs.graphs / graph.file
            run, note = cpu_runner(file, precision, graph.backend)
            check = precision_check(
                collapsed, graph, run, expected, inputs, sha256=file_sha256(file), note=note
            )
            checked[graph.backend] = check, run
            yield check
        for engine in built.engines:
            if (engine.level, engine.precision) == (collapsed.level, precision):
                above, run = checked.get(engine.backend, checked[None])
                yield engine_check(above, engine.backend, inputs.engines / engine.file, run, inputs)


def precision_check(
    collapsed: ParityCheck,
    graph: TypedGraph,
    run: Run,
    expected: Logits,
    inputs: Inputs,
    *,
    sha256: str,
    note: str | None = None,
) -> ParityCheck:
    """Compare a precision's graph with the collapsed one and measure its accuracy.

    Where both are the same file, which their sha256 shows, the accuracies of the one are those of
    the other, and nothing is run.

    Args:
        collapsed: the check of the collapsed graph.
        graph, sha256: which it is, and its file's.
        run, note: the graph as a function, and how it is run, where not as it stands.
        expected: the collapsed graph's logits of ``inputs.images``.
        inputs: what to measure on.
    """
    check = _below(collapsed, "precision", "collapsed onnx", graph.precision, graph.backend)
    check = replace(check, tolerance=asdict(TOLERANCES[graph.precision]), sha256=sha256)
    if collapsed.status != "passed":
        return check
    if sha256 != collapsed.sha256:
        return _measured(check, run, expected, inputs, note)
    return replace(
        check,
        status="passed",
        reason=SAME_BYTES,
        **asdict(Parity(max_abs=0.0, max_rel=0.0, cosine=1.0, top1_agreement=1.0)),
        val_accuracy_pct=collapsed.val_accuracy_pct,
        test_accuracy_pct=collapsed.test_accuracy_pct,
    )


def engine_check(
    above: ParityCheck, backend: str, engine: Path, run_above: Run, inputs: Inputs
) -> ParityCheck:
    """Compare an engine with the graph it was built from and measure its accuracy.

    Where `above`, the check of that graph, failed, or the engine cannot run on this machine, it is
    not run.
    """
    assert above.precision is not None
    check = _below(above, "engine", "its graph", above.precision, backend)
    check = replace(check, tolerance=asdict(engine_tolerance(above.precision, backend)))
    if above.status != "passed":
        return check
    check = replace(check, sha256=file_sha256(engine))
    try:
        BACKENDS[backend].runnable(inputs.build)
        opened = BACKENDS[backend].load(engine, usable_cores())
    except BackendUnavailable as e:
        return replace(check, reason=str(e))
    run = partial(_in_profile, opened, inputs.build.batch)
    return _measured(check, run, run_above(inputs.images), inputs)


def engine_tolerance(precision: str, backend: str) -> Tolerance:
    """Return how far an engine may be from its graph: other kernels, the same types.

    In float32 that is what the backend's arithmetic explains (TF32 in TensorRT), else what the
    precision explains once more.
    """
    tolerance = TOLERANCES[precision]
    if precision != "fp32":
        return tolerance
    return replace(tolerance, max_rel=BACKENDS[backend].tolerance)


def _below(
    above: ParityCheck, check: Kind, reference: str, precision: str, backend: str | None
) -> ParityCheck:
    """Return the check as it is until something is computed."""
    reason = f"the check above it: {above.status}"
    return ParityCheck(above.level, check, reference, precision, backend, "not run", reason, {})


def _measured(
    check: ParityCheck, run: Run, expected: Logits, inputs: Inputs, note: str | None = None
) -> ParityCheck:
    """Return the check with its numbers and its verdict."""
    try:
        parity = compare(expected, run(inputs.images))
    except (BackendError, ParityError) as e:
        return replace(check, status="failed", reason=str(e))
    check = replace(check, **asdict(parity))
    if missed := violations(parity, Tolerance(**check.tolerance)):
        return replace(check, status="failed", reason="; ".join(missed))

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run(images.numpy()))

    data = inputs.data
    val_accuracy_pct, test_accuracy_pct = (
        data.accuracy_pct(split, forward) for split in (data.validation, data.test)
    )
    return replace(
        check,
        status="passed",
        reason=note,
        val_accuracy_pct=val_accuracy_pct,
        test_accuracy_pct=test_accuracy_pct,
    )


def _in_profile(engine: Engine, batch: Batch, images: Images) -> Logits:
    """Run an engine on any number of images, in batches that it takes."""
    parts = []
    for start in range(0, len(images), batch.max):
        part = images[start : start + batch.max]
        filled = part if len(part) >= batch.min else np.resize(part, (batch.min, *part.shape[1:]))
        parts.append(engine(filled).run()[: len(part)])
    return np.concatenate(parts)
