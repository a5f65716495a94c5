"""One strongly typed ONNX graph per precision from a level's float32 graph.

TensorRT 11 has no precision flags: an engine computes in what its graph says. Every graph is
compared with the float32 one on real training images. Operators that would break the tolerance of
the precision stay in float32, and the metrics name them.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from models.errors import ArtifactError, ParityError, ShoalError
from pipeline.artifacts import replace_file
from pipeline.emulation import emulated
from pipeline.engines.interface import Images, Logits
from pipeline.engines.onnxruntime import runner
from pipeline.graph_types import CONVERSIONS, operators_by_type, weight_bytes
from pipeline.half_precision import float32_operators, to_half
from pipeline.onnx_graph import load_onnx, read_boundaries
from pipeline.parity import Parity, compare
from pipeline.quantize import SCHEMES, Quantiser, Scheme, quantisable
from pipeline.sensitivity import Convert, Found, convert_within
from pipeline.tolerances import TOLERANCES

RANKING_IMAGES = 64  # on which operators are tried one by one
BATCH = 256
LARGEST_FILE = 2**31  # bytes; no protobuf message is larger


@dataclass(frozen=True)
class Level:
    """A level's float32 graph and what the others are compared on."""

    source: Path  # level_<n>.onnx
    model: ModelProto
    images: Images  # normalised calibration images
    logits: Logits  # the graph's, of these images


@dataclass(frozen=True)
class Typed:
    """A graph in its precision: the model, or nothing where it is the source itself."""

    found: Found | None
    kept: list[dict[str, str]]  # {"name", "op_type"} of operators that stay in float32


# The graph for all backends under None, and those for single ones or why there is none.
Made = dict[str | None, Typed | str]


def open_level(source: Path, images: Images) -> Level:
    """Load a level's graph and compute its logits.

    Args:
        source: a float32 graph with recorded blocks, as `collapse` writes it.
        images: normalised calibration images (n, c, h, w).

    Raises:
        ArtifactError: the file is missing or damaged, holds other types, or is too large.
    """
    if source.exists() and source.stat().st_size >= LARGEST_FILE:
        size = f"{source.stat().st_size:,} bytes"
        raise ArtifactError(f"{source} has {size}; ONNX files in one piece end at 2 GiB")
    model = load_onnx(source)
    read_boundaries(model)
    if other := weight_bytes(model).keys() & {"float16", "bfloat16", "int8"}:
        raise ArtifactError(f"{source} holds {', '.join(sorted(other))}; float32 is needed")
    return Level(source, model, images, _logits(model, images))


def typed_graphs(level: Level, folder: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Write a level's graph in every precision; return {"graphs": ..., "failed": ...}.

    A precision that cannot be had within its tolerance goes to ``failed`` with the reason.

    Args:
        level: the float32 graph.
        folder: where ``<precision>/level_<n>.onnx`` goes, and ``<precision>-<backend>/...`` where
            one backend has a graph of its own.
        precisions: names of rows of `MAKERS`.
    """
    graphs: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for precision in precisions:
        start = time.perf_counter()
        try:
            made = MAKERS[precision](precision, level)
        except ShoalError as e:
            failed[precision] = str(e)
            continue
        described = _written(precision, made, level.source, folder)
        seconds = round(time.perf_counter() - start, 3)
        graphs[precision] = described | {"seconds": seconds}
    return {"graphs": graphs, "failed": failed}


def _same(_precision: str, _level: Level) -> Made:
    return {None: Typed(None, [])}


def _half(precision: str, level: Level) -> Made:
    nodes = [node.name for node in level.model.graph.node if node.op_type not in CONVERSIONS]
    found = _within_tolerance(precision, level, nodes, partial(to_half, level.model, precision))
    kept = [{"name": name, "op_type": kind} for name, kind in float32_operators(found.model)]
    return {None: Typed(found, kept)}


def _int8(precision: str, level: Level) -> Made:
    made: Made = {}
    with Quantiser(level.model, level.images) as quantiser:
        for backend, scheme in SCHEMES.items():
            try:
                made[backend] = _quantised(precision, level, quantiser, scheme)
            except ShoalError as e:
                if backend is None:
                    raise
                made[backend] = str(e)
    return made


def _quantised(precision: str, level: Level, quantiser: Quantiser, scheme: Scheme) -> Typed:
    kinds = {node.name: node.op_type for node in quantisable(level.model, scheme)}
    convert = partial(quantiser.quantise, scheme)
    found = _within_tolerance(precision, level, list(kinds), convert)
    return Typed(found, [{"name": name, "op_type": kinds[name]} for name in found.kept])


MAKERS: dict[str, Callable[[str, Level], Made]] = {
    "fp32": _same,
    "fp16": _half,
    "bf16": _half,
    "int8": _int8,
}


def _within_tolerance(
    precision: str, level: Level, operators: Sequence[str], convert: Convert
) -> Found:
    """Return the graph with as many operators kept back as its tolerance demands.

    Raises:
        ParityError: it cannot be met.
    """

    def compared(images: Images, logits: Logits, model: ModelProto) -> Parity:
        return compare(logits, _logits(emulated(model), images))

    few = level.images[:RANKING_IMAGES], level.logits[:RANKING_IMAGES]
    found = convert_within(
        TOLERANCES[precision],
        operators,
        convert,
        rank=partial(compared, *few),
        measure=partial(compared, level.images, level.logits),
    )
    if found.missed:
        raise ParityError(
            f"{level.source.name} in {precision} with {len(found.kept)} of {len(operators)} "
            f"operators kept in float32, on {len(level.images)} calibration images: {found.missed}"
        )
    return found


def _logits(model: ModelProto, images: Images) -> Logits:
    run = runner(model.SerializeToString())
    starts = range(0, len(images), BATCH)
    return np.concatenate([run(images[start : start + BATCH]) for start in starts])


def _written(precision: str, made: Made, source: Path, folder: Path) -> dict[str, Any]:
    """Write the graphs of a precision and return what the metrics say of them.

    Backends with a graph of their own stand under ``files`` and ``by_backend``; those for which
    there should be one, but is none, under ``files_failed`` with the reason.
    """
    facts: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    for backend, typed in made.items():
        if isinstance(typed, str):
            reasons[str(backend)] = typed
        elif backend is None:
            facts = _write(typed, source, folder, precision)
        else:
            own[backend] = _write(typed, source, folder, f"{precision}-{backend}")
    if own:
        facts |= {"files": {name: graph["file"] for name, graph in own.items()}, "by_backend": own}
    return facts | ({"files_failed": reasons} if reasons else {})


def _write(typed: Typed, source: Path, folder: Path, place: str) -> dict[str, Any]:
    """Write a graph to ``folder/place`` and return what the metrics say of it."""
    file = Path(place, source.name)
    with replace_file(folder / file) as temporary:
        if typed.found is None:
            shutil.copyfile(source, temporary)
        else:
            onnx.save(typed.found.model, temporary)
        model = load_onnx(temporary)
    parity = typed.found.parity if typed.found else None
    return {
        "file": file.as_posix(),
        "bytes": (folder / file).stat().st_size,
        "weight_bytes": weight_bytes(model),
        "operators": operators_by_type(model),
        "kept_fp32": typed.kept,
        "calibration_parity": asdict(parity) if parity else None,
    }
