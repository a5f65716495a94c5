"""One strongly typed ONNX graph per precision from a level's float32 graph.

TensorRT 11 has no precision flags: an engine computes in the types of its graph. Every graph is
compared with the float32 one on real training images. Operators that would break the tolerance of
the precision stay in float32, and the metrics name them.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import ModelProto

from models.errors import ArtifactError, ParityError, ShoalError
from pipeline.core.arrays import Images, Logits
from pipeline.core.artifacts import replace_file
from pipeline.engines.precision.dtypes import CONVERSIONS, operators_by_type, weight_bytes
from pipeline.engines.precision.emulation import emulated
from pipeline.engines.precision.half import float32_operators, to_half
from pipeline.engines.precision.int8 import SCHEMES, quantisable, quantise
from pipeline.engines.precision.sensitivity import Convert, Mixture, convert_within
from pipeline.engines.precision.tolerances import TOLERANCES
from pipeline.engines.records import MissingGraph, TypedGraph
from pipeline.export.boundaries import load_onnx, read_boundaries
from pipeline.export.parity import Parity, compare
from pipeline.export.session import runner

RANKING_IMAGES = 64  # on which operators are tried one by one
BATCH = 256
LARGEST_FILE = 2**31  # bytes; no protobuf message is larger


@dataclass(frozen=True)
class LevelGraph:
    """A level's float32 graph and what the others are compared on."""

    level: int
    source: Path  # level_<n>.onnx
    model: ModelProto
    images: Images  # normalised calibration images
    logits: Logits  # the graph's, of these images


# The graph, None where it is the source itself; its parity; operators that stay in float32, as
# {"name", "op_type"}.
Typed = tuple[ModelProto | None, Parity | None, list[dict[str, str]]]


def open_level(level: int, source: Path, images: Images) -> LevelGraph:
    """Load a level's graph and compute its logits.

    Args:
        level: its number of removed blocks.
        source: a float32 graph with recorded blocks, as `collapse` writes it.
        images: for calibration, normalised.

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
    return LevelGraph(level, source, model, images, _logits(model, images))


def typed_graphs(
    level: LevelGraph, folder: Path, precisions: Sequence[str]
) -> tuple[list[TypedGraph], list[MissingGraph]]:
    """Write a level's graph in every precision; return those made and those that cannot be.

    A precision that does not meet its tolerance is missing, with the reason. Where there is no
    graph for all backends, there is none for a single one.

    Args:
        level: the float32 graph.
        folder: where ``<precision>/level_<n>.onnx`` goes, and ``<precision>-<backend>/...`` where
            one backend has a graph of its own.
        precisions: names of rows of `MAKERS`.
    """
    graphs: list[TypedGraph] = []
    missing: list[MissingGraph] = []
    with TemporaryDirectory(prefix="shoal.precision.") as scratch:
        for precision in precisions:
            for backend in SCHEMES if precision == "int8" else [None]:
                start = time.perf_counter()
                try:
                    typed = MAKERS[precision](precision, backend, level, Path(scratch))
                except ShoalError as e:
                    missing.append(MissingGraph(level.level, precision, backend, str(e)))
                    if backend is None:
                        break
                else:
                    graphs.append(_write(typed, level, folder, precision, backend, start))
    return graphs, missing


def _same(_precision: str, _backend: None, _level: LevelGraph, _scratch: Path) -> Typed:
    return None, None, []


def _half(precision: str, _backend: None, level: LevelGraph, _scratch: Path) -> Typed:
    names = [node.name for node in level.model.graph.node if node.op_type not in CONVERSIONS]
    found = _within_tolerance(precision, level, names, partial(to_half, level.model, precision))
    kept = [{"name": name, "op_type": kind} for name, kind in float32_operators(found.model)]
    return found.model, found.parity, kept


def _int8(precision: str, backend: str | None, level: LevelGraph, scratch: Path) -> Typed:
    scheme = SCHEMES[backend]
    kinds = {node.name: node.op_type for node in quantisable(level.model, scheme)}
    convert = partial(quantise, level.model, level.images, scratch, scheme)
    found = _within_tolerance(precision, level, list(kinds), convert)
    kept = [{"name": name, "op_type": kinds[name]} for name in found.kept]
    return found.model, found.parity, kept


MAKERS: dict[str, Callable[..., Typed]] = {
    "fp32": _same,
    "fp16": _half,
    "bf16": _half,
    "int8": _int8,
}


def _within_tolerance(
    precision: str, level: LevelGraph, operators: Sequence[str], convert: Convert
) -> Mixture:
    """Return the graph with as many operators in float32 as its tolerance demands.

    Raises:
        ParityError: it cannot be met.
    """

    def compared(images: int | None, model: ModelProto) -> Parity:
        return compare(level.logits[:images], _logits(emulated(model), level.images[:images]))

    found = convert_within(
        TOLERANCES[precision],
        operators,
        convert,
        rank=partial(compared, RANKING_IMAGES),
        measure=partial(compared, None),
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


def _write(
    typed: Typed, level: LevelGraph, folder: Path, precision: str, backend: str | None, start: float
) -> TypedGraph:
    """Write a graph and describe the file; `start` is when its making began."""
    made, parity, kept = typed
    file = Path(f"{precision}-{backend}" if backend else precision, level.source.name)
    with replace_file(folder / file) as temporary:
        if made is None:
            shutil.copyfile(level.source, temporary)
        else:
            onnx.save(made, temporary)
        model = load_onnx(temporary)
    return TypedGraph(
        level=level.level,
        precision=precision,
        backend=backend,
        file=file.as_posix(),
        bytes=(folder / file).stat().st_size,
        weight_bytes=weight_bytes(model),
        operators=operators_by_type(model),
        kept_fp32=kept,
        calibration_parity=parity,
        seconds=round(time.perf_counter() - start, 3),
    )
