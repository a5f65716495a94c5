"""One row of docs/zoo.md: find a network's blocks, take a third out, prove it, build the engine."""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.batch_norm import reestimate_batch_norm
from models.blocks import Block, find_blocks
from models.cost import count_parameters
from models.errors import ShoalError
from models.surgery import bypass
from models.zoo import create
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.params import Batch, Build
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.registry import BACKENDS
from pipeline.export.exporter import export_onnx
from pipeline.export.parity import compare, require
from pipeline.export.session import runner

CLASSES = 10
SIZES = (64, 96, 128, 160, 192, 224, 256)  # pixels tried below an architecture's own size
TOLERANCE = 1e-4
ENOUGH = 3  # removable blocks, so that a third is at least one
TRIED = 4  # networks of a family looked at for that many
ENGINE = Build(
    backends=["tensorrt_rtx"], compute_capabilities=["8.9"], batch=Batch(min=1, opt=2, max=4)
)

Row = dict[str, Any]


def measure(family: str, write: Callable[[Row], None]) -> None:
    """Fill the row of a family step by step, writing it before each."""
    warnings.simplefilter("ignore")  # of what architectures do; errors still raise
    torch.manual_seed(0)
    row: Row = {"family": family}

    def begin(step: str) -> None:
        row["step"] = step
        write(row)

    try:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            _measure(row, begin, Path(folder))
    except ShoalError as e:
        row["reason"] = _one_line(e)
    write(row)


def _measure(row: Row, begin: Callable[[str], None], folder: Path) -> None:
    begin("find")
    name, model, size, blocks = smallest(row["family"])
    removable = [block.name for block in blocks if block.removable]
    removed = removable[::3][: max(1, len(removable) // 3)]
    row |= {"name": name, "size": size, "parameters": count_parameters(model)}
    row |= {"blocks": len(blocks), "removable": len(removable), "removed": len(removed)}
    if not removed:
        raise ShoalError(f"no block can be removed: {_why(blocks)}")
    randomise(model, size)
    images = torch.randn(4, 3, size, size)

    begin("bypass")
    shallow = bypass(model, removed).eval()
    whole, expected = _logits(model, images), _logits(shallow, images)
    row["change"] = compare(*_centred(whole, expected)).max_rel
    if row["change"] < 100 * TOLERANCE:
        raise ShoalError(f"the blocks change the logits by {row['change']:.1e} only")

    begin("export")
    source = export_onnx(model, images[:2], folder / "whole.onnx")
    begin("collapse")
    report = collapse_onnx(source, folder / "shallow.onnx", removed)
    row |= {"macs_before": report.before.macs, "macs_after": report.after.macs}
    begin("parity")
    found = runner(folder / "shallow.onnx")(images.numpy())
    parity, of_signal = compare(expected, found), compare(*_centred(expected, found))
    row |= {"parity": parity.max_rel, "parity_of_signal": of_signal.max_rel}
    require(parity, TOLERANCE, "PyTorch and the collapsed graph")
    require(of_signal, 10 * TOLERANCE, "PyTorch and the collapsed graph, mean taken off")
    begin("engine")
    job = Job(folder / "shallow.onnx", folder / "engine", "fp32", ENGINE)
    BACKENDS["tensorrt_rtx"].build(job)
    row["engine_bytes"] = (folder / "engine").stat().st_size
    begin("done")


def smallest(family: str) -> tuple[str, nn.Module, int, list[Block]]:
    """Return the family's smallest network with enough removable blocks: name, size, blocks.

    Where none of the smallest few has so many, the one with most.
    """
    found = []
    for name in _by_parameters(family)[:TRIED]:
        model, size, blocks = _smallest_size(name)
        removable = sum(block.removable for block in blocks)
        found.append((removable, name, model, size, blocks))
        if removable >= ENOUGH:
            break
    _, name, model, size, blocks = max(found, key=lambda item: min(item[0], ENOUGH))
    return name, model, size, blocks


def _by_parameters(family: str) -> list[str]:
    """Return a family's networks, smallest first, without timm's toys for its own tests."""
    import timm

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return count_parameters(timm.create_model(name))

    names = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
    return sorted(names, key=parameters)


def _smallest_size(name: str) -> tuple[nn.Module, int, list[Block]]:
    """Create a network for the smallest images on which it runs, and find its blocks."""
    least, native = _least_and_native_size(name)
    for size in sorted({least, native, *(size for size in SIZES if least <= size < native)}):
        try:
            model = _create(name, size, native)
            return model.eval(), size, find_blocks(model, torch.zeros(2, 3, size, size))
        except ShoalError:
            if size == native:
                raise
    raise AssertionError("the native size was tried")


def _least_and_native_size(name: str) -> tuple[int, int]:
    import timm

    published: Any = timm.get_pretrained_cfg(name)
    native: int = published.input_size[-1]
    least: int = published.min_input_size[-1] if published.min_input_size else min(SIZES[0], native)
    return least, native


def _create(name: str, size: int, native: int) -> nn.Module:
    """Create a network for a size that is not its own, with `img_size` where it takes that."""
    if size == native:
        return create(name, CLASSES)
    try:
        return create(name, CLASSES, img_size=size)
    except ShoalError:  # no such option: convolutions take any size
        return create(name, CLASSES)


def randomise(model: nn.Module, size: int) -> None:
    """Give every weight and batch-norm statistic a value of its own.

    Fresh networks hold scales of 1e-5, zeros and ones that make blocks the identity and hide
    mistakes; statistics far from what passes through make the logits the same for all images.
    """
    with torch.no_grad():
        for name, tensor in _constants(model):
            if tensor.ndim > 1 and not tensor.any():
                tensor.normal_(std=0.02)
            elif name.endswith("bias"):
                tensor.normal_(std=0.1)
            else:
                tensor.uniform_(0.5, 1.0)
    images = torch.randn(16, 3, size, size)
    reestimate_batch_norm(model, [(images, torch.zeros(len(images), dtype=torch.int64))])


def _constants(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that hold one value throughout."""
    for name, tensor in model.named_parameters():
        if tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
            yield name, tensor


def _logits(model: nn.Module, images: Tensor) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return np.asarray(model(images).numpy())


def _centred(
    reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Take the reference's mean over the images off both: only what tells images apart counts."""
    mean = reference.mean(axis=0)
    return reference - mean, candidate - mean


def _why(blocks: list[Block]) -> str:
    """Return the commonest reason why blocks cannot be removed."""
    reasons = [block.reason for block in blocks]
    return max(set(reasons), key=reasons.count) if reasons else "none was found"


def _one_line(error: Exception) -> str:
    """Return the error's text, without the folders of temporary files."""
    return " ".join(re.sub(r"/\S*/", "", str(error)).split())[:300]
