"""Remove blocks from an exported ONNX graph: bypass each, then drop the unused nodes.

A block with one activation entering and one leaving, of the same shape, is bypassed by letting
every consumer of the latter read the former, or a map of its channels that replaces the block.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from models.errors import ArtifactError, BlockError, near_matches
from pipeline.collapse.channel_maps import Maps, fuse, place
from pipeline.core.artifacts import replace_file
from pipeline.export.boundaries import Boundary, load_onnx, read_boundaries, record_boundaries
from pipeline.export.graph_size import graph_size
from pipeline.export.records import GraphSize


@dataclass(frozen=True)
class CollapseReport:
    """What a collapse removed and what it saved."""

    removed: list[str]
    before: GraphSize
    after: GraphSize


def collapse_onnx(
    source: Path, target: Path, remove: Sequence[str], replacements: Maps | None = None
) -> CollapseReport:
    """Write `source` without the named blocks to `target`.

    Args:
        source: an ONNX file written by `export_onnx` (or by this function).
        target: the collapsed file; tensor and node names and metadata are kept.
        remove: block names, as `find_blocks` gives them, in any order.
        replacements: of removed blocks, by name; the identity where there is none.

    Raises:
        BlockError: a block is unknown, changes shape, or has more than one activation entering
            or leaving. Nothing is written.
        ArtifactError: `source` is not a valid ONNX file with recorded block boundaries.
    """
    model = load_onnx(source)
    boundaries = read_boundaries(model)
    chosen = [_removable(name, boundaries) for name in remove]
    _require_tensors(model, chosen)
    kept = [b for name, b in boundaries.items() if name not in set(remove)]
    ends = {end for boundary in kept for end in boundary.outputs}
    collapsed, replaced = (
        _bypass(model, chosen, replacements or {}, ends) if chosen else (model, {})
    )
    record_boundaries(collapsed, [_moved(boundary, replaced) for boundary in kept])
    with replace_file(target) as temporary:
        onnx.save(collapsed, temporary)
        load_onnx(temporary)
    return CollapseReport(list(remove), graph_size(model), graph_size(collapsed))


def _removable(name: str, boundaries: Mapping[str, Boundary]) -> Boundary:
    """Return the block's boundary; raise `BlockError` where it cannot be removed."""
    if name not in boundaries:
        known = ", ".join(n for n, b in boundaries.items() if not b.reason) or "none"
        hint = near_matches(name, boundaries)
        raise BlockError(f"no block {name!r} in the graph{hint}; removable are: {known}")
    boundary = boundaries[name]
    if boundary.reason:
        raise BlockError(f"block {name!r} cannot be removed: it {boundary.reason}")
    if len(boundary.inputs) != 1 or len(boundary.outputs) != 1:
        raise BlockError(
            f"block {name!r} cannot be removed: activations entering are "
            f"{boundary.inputs} and leaving {boundary.outputs}; one of each is needed"
        )
    return boundary


def _require_tensors(model: ModelProto, chosen: Sequence[Boundary]) -> None:
    """Raise `ArtifactError` where a recorded boundary names what is not in the graph."""
    graph = model.graph
    known = {value.name for value in graph.input}
    known |= {name for node in graph.node for name in node.output if name}
    for boundary in chosen:
        if missing := {*boundary.inputs, *boundary.outputs} - known:
            raise ArtifactError(
                f"block {boundary.name!r} is recorded with tensors that are not in the graph "
                f"({', '.join(map(repr, sorted(missing)))}); export it again"
            )


def _moved(boundary: Boundary, replaced: Mapping[str, str]) -> Boundary:
    """Return the boundary of a kept block, entered by what removed neighbours are replaced with."""
    inputs = sorted({replaced.get(name, name) for name in boundary.inputs})
    return Boundary(boundary.name, inputs, boundary.outputs, boundary.reason)


def _bypass(
    model: ModelProto, chosen: Sequence[Boundary], replacements: Maps, ends: Collection[str]
) -> tuple[ModelProto, dict[str, str]]:
    """Rewire the graph around the chosen blocks and drop the nodes without a consumer.

    `ends` are the tensors in which kept blocks end. Returns the graph, and {a block's output: the
    tensor that is read instead}.
    """
    graph = gs.import_onnx(model)
    tensors = graph.tensors()
    instead: dict[str, gs.Tensor] = {}
    for block in chosen:
        entering = instead.get(block.inputs[0], tensors[block.inputs[0]])
        if block.name in replacements:
            entering = place(graph, block.name, entering, replacements[block.name])
        _read_instead(graph, tensors[block.outputs[0]], entering)
        instead = {
            name: entering if tensor is tensors[block.outputs[0]] else tensor
            for name, tensor in instead.items()
        } | {block.outputs[0]: entering}
    try:
        graph.cleanup()
        moved = fuse(graph, ends)
        collapsed: ModelProto = gs.export_onnx(graph, do_type_check=False)
    except OnnxGraphSurgeonException as e:
        names = ", ".join(block.name for block in chosen)
        raise ArtifactError(
            f"the boundaries recorded for {names} do not fit the graph ({e}); export it again"
        ) from e
    _restore_metadata(collapsed, model)
    return collapsed, {name: _followed(tensor.name, moved) for name, tensor in instead.items()}


def _followed(name: str, moved: Mapping[str, str]) -> str:
    while name in moved:
        name = moved[name]
    return name


def _read_instead(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old` read `new`; a graph output keeps its name through an Identity."""
    for consumer in list(old.outputs):
        consumer.inputs = [new if tensor is old else tensor for tensor in consumer.inputs]
    if any(output is old for output in graph.outputs):
        old.inputs.clear()
        graph.nodes.append(gs.Node("Identity", f"bypass_{old.name}", inputs=[new], outputs=[old]))


def _restore_metadata(collapsed: ModelProto, original: ModelProto) -> None:
    """Bring back what onnx-graphsurgeon drops: the model's and the nodes' metadata."""
    collapsed.ir_version = original.ir_version
    collapsed.producer_name = original.producer_name
    collapsed.producer_version = original.producer_version
    onnx.helper.set_model_props(collapsed, {p.key: p.value for p in original.metadata_props})
    metadata = {node.name: node.metadata_props for node in original.graph.node}
    for node in collapsed.graph.node:
        if node.name in metadata and not node.metadata_props:
            node.metadata_props.extend(metadata[node.name])
