"""Export a network to ONNX with its block boundaries recorded in the file.

While the network is exported, what enters and what leaves each removable block passes through a
marker, an operator of our own. No optimisation of the exporter can fuse or move anything across it,
and it names the two tensors exactly. Then the markers are removed, and the boundaries stored in the
model's own metadata for `collapse`. The same network gives the same bytes in any folder.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import Message
from onnx import ModelProto
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.blocks import Block, find_blocks
from models.errors import ArtifactError, ShoalError
from models.hooks import watched
from pipeline.core.artifacts import replace_file
from pipeline.export.boundaries import Boundary, load_onnx, record_boundaries

INPUT, OUTPUT = "images", "logits"
DOMAIN = "shoal"  # of the marker, an operator that is in no finished file
BEGIN, END = "begin ", "end "  # a marker's name is one of these and the block's
KEPT = ("shoal.", "pkg.torch.onnx.name_scopes")  # metadata: our own, and a node's module path


def export_onnx(
    model: nn.Module, example: Tensor, path: Path, *, blocks: Sequence[Block] | None = None
) -> Path:
    """Write `model` as ONNX with a dynamic batch, checked by `onnx.checker`.

    Args:
        model: a network on the CPU; exported in evaluation mode.
        example: images (n, c, h, w) of the size to export for.
        path: target file, replaced only once the new one is whole.
        blocks: whose boundaries are recorded, units included; those of `find_blocks` by default.

    Raises:
        ShoalError: the exporter cannot translate the network.
    """
    example = torch.cat([example, example])[:2]  # a batch of one would be taken for a constant
    was_training = model.training
    if blocks is None:
        blocks = find_blocks(model, example)
    try:
        with _marked(model.eval(), [block.name for block in blocks if block.removable]):
            exported = _translate(model, example)
    finally:
        model.train(was_training)
    marked = _remove_markers(exported)
    boundaries = [_boundary(block, marked) for block in blocks]
    for block, boundary in zip(blocks, boundaries, strict=True):
        if boundary.reason and block.removable:
            print(
                f"warning: block {block.name} is not removable: it {boundary.reason}",
                file=sys.stderr,
            )
    forget_builder(exported)
    record_boundaries(exported, boundaries)
    with replace_file(path) as temporary:
        onnx.save(exported, temporary)
        try:
            load_onnx(temporary)
        except ArtifactError as e:
            why = f"the exporter wrote an invalid graph, {_root_cause(e)}"
            raise ShoalError(f"{type(model).__name__} cannot be exported to ONNX: {why}") from e
    return path


def _translate(model: nn.Module, example: Tensor) -> ModelProto:
    with warnings.catch_warnings(), PlainAttention():
        warnings.simplefilter("ignore")  # the exporter's own deprecations; failures still raise
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as e:
            why = f"{type(model).__name__} cannot be exported to ONNX: {_root_cause(e)}"
            raise ShoalError(why) from e
    assert program is not None
    return program.model_proto


def _root_cause(error: BaseException) -> str:
    """Return the first line of what went wrong first; the exporter's own text is pages long."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class PlainAttention(TorchFunctionMode):
    """Write attention as matrix products, whatever the number of dimensions.

    The exporter translates the fused operator for four dimensions only, and not where its output
    is laid out unlike that of the products. Engines fuse the products again.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute softmax(q kᵀ · scale + mask) v of q (..., l, d), k (..., s, d) and v (..., s, e)."""
    if enable_gqa:  # fewer keys and values than queries: each serves several heads
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query * scale) @ key.transpose(-2, -1)  # (..., l, s)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(dim=-1) @ value


def _mark(x: Tensor, name: str) -> Tensor:
    """Pass `x` through a marker in the graph that is being exported."""
    marked: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::Mark", [x], attrs={"name": name}, dtype=x.dtype, shape=x.shape, version=1
    )
    return marked


def _marked(model: nn.Module, names: Sequence[str]) -> AbstractContextManager[None]:
    """Let what enters and leaves the named blocks pass through markers."""
    return watched(
        model,
        names,
        on_enter=lambda name, x: _mark(x, f"{BEGIN}{name}"),
        on_leave=lambda name, y: _mark(y, f"{END}{name}"),
    )


def _remove_markers(model: ModelProto) -> dict[str, str]:
    """Remove the markers from the graph; return {marker's name: the tensor it marked}."""
    marks = {node.output[0]: node for node in model.graph.node if node.domain == DOMAIN}

    def marked(tensor: str) -> str:
        while tensor in marks:
            tensor = marks[tensor].input[0]
        return tensor

    kept = [node for node in model.graph.node if node.domain != DOMAIN]
    for node in kept:
        node.input[:] = [marked(tensor) for tensor in node.input]
    for value in model.graph.output:
        if value.name in marks:  # the network ends in a block
            kept.append(onnx.helper.make_node("Identity", [marked(value.name)], [value.name]))
    described = [value for value in model.graph.value_info if value.name not in marks]
    domains = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.graph.node[:], model.graph.value_info[:], model.opset_import[:]
    model.graph.node.extend(kept)
    model.graph.value_info.extend(described)
    model.opset_import.extend(domains)
    return {node.attribute[0].s.decode(): marked(name) for name, node in marks.items()}


def forget_builder(message: Message) -> None:
    """Drop texts and metadata that no stage reads, wherever they are in the file.

    The exporter records absolute paths and source lines of the machine that it runs on there; the
    same weights would give another file in another folder.
    """
    for field, value in message.ListFields():
        if field.name == "doc_string":
            message.ClearField(field.name)
        elif field.name == "metadata_props":
            for entry in [entry for entry in value if not entry.key.startswith(KEPT)]:
                value.remove(entry)
        elif field.message_type:
            for part in value if field.is_repeated else [value]:
                forget_builder(part)


def _boundary(block: Block, marked: Mapping[str, str]) -> Boundary:
    """Return where a block begins and ends in the graph, or why it cannot be removed there."""
    if block.reason:
        return Boundary(block.name, [], [], block.reason)
    begin, end = marked.get(f"{BEGIN}{block.name}"), marked.get(f"{END}{block.name}")
    if begin is None or end is None:
        return Boundary(block.name, [], [], "has no effect on the output of the ONNX graph")
    if begin == end:
        return Boundary(block.name, [begin], [end], "is already the identity in the ONNX graph")
    return Boundary(block.name, [begin], [end], "")
