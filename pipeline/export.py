"""Export a network to ONNX with its block boundaries recorded in the file.

The dynamo exporter writes each node's module path into the node's metadata; from it the one
activation that enters and the one that leaves each block are found here, while that metadata
still exists, and stored in the model's own metadata for `collapse`.
"""

import ast
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from models.blocks import Block, find_blocks
from models.errors import ShoalError
from models.surgery import module_paths
from pipeline.artifacts import replace_file
from pipeline.onnx_graph import Boundary, load_onnx, record_boundaries

INPUT, OUTPUT = "images", "logits"
SCOPES_KEY = "pkg.torch.onnx.name_scopes"


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
    try:
        exported = _translate(model.eval(), example)
    finally:
        model.train(was_training)
    boundaries = find_boundaries(
        exported, find_blocks(model, example) if blocks is None else blocks
    )
    for boundary in boundaries:
        if not boundary.reason and (len(boundary.inputs), len(boundary.outputs)) != (1, 1):
            print(
                f"warning: block {boundary.name} cannot be removed from the ONNX graph: entering "
                f"{boundary.inputs}, leaving {boundary.outputs}",
                file=sys.stderr,
            )
    record_boundaries(exported, boundaries)
    with replace_file(path) as temporary:
        onnx.save(exported, temporary)
        load_onnx(temporary)
    return path


def _translate(model: nn.Module, example: Tensor) -> ModelProto:
    with warnings.catch_warnings():
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
            raise ShoalError(f"{type(model).__name__} cannot be exported to ONNX: {e}") from e
    assert program is not None
    return program.model_proto


def find_boundaries(model: ModelProto, blocks: Sequence[Block]) -> list[Boundary]:
    """Return, per block, the activations that enter and leave its nodes.

    Only tensors computed from the graph's input count: constants and shape arithmetic may be
    shared between blocks.
    """
    activations = _activations(model)
    scoped = _scoped_nodes(model)
    return [_boundary(model, scoped, block, activations) for block in blocks]


def _boundary(
    model: ModelProto,
    scoped: Sequence[tuple[NodeProto, frozenset[str]]],
    block: Block,
    activations: set[str],
) -> Boundary:
    paths = module_paths(block.name)
    inside = [node for node, scopes in scoped if not scopes.isdisjoint(paths)]
    outside = [node for node, scopes in scoped if scopes.isdisjoint(paths)]
    made = {name for node in inside for name in node.output}
    used = {name for node in inside for name in node.input}
    needed = {name for node in outside for name in node.input}
    needed |= {value.name for value in model.graph.output}
    return Boundary(
        name=block.name,
        inputs=sorted((used - made) & activations),
        outputs=sorted(made & needed & activations),
        reason=block.reason,
    )


def _activations(model: ModelProto) -> set[str]:
    """Return the tensors that carry values of the graph's input, not merely its shape."""
    carrying = {value.name for value in model.graph.input}
    for node in model.graph.node:  # topologically ordered
        if node.op_type not in {"Shape", "Size"} and carrying.intersection(node.input):
            carrying.update(node.output)
    return carrying


def _scoped_nodes(model: ModelProto) -> list[tuple[NodeProto, frozenset[str]]]:
    """Return every node with the dotted paths of the modules it was traced in.

    The exporter adds nodes of its own without a path, such as Split; they belong where all the
    nodes that read them belong.
    """
    scopes_of_readers: dict[str, list[frozenset[str]]] = defaultdict(list)
    scoped = []
    for node in reversed(model.graph.node):  # readers first
        readers = [scopes for name in node.output for scopes in scopes_of_readers[name]]
        common = frozenset.intersection(*readers) if readers else frozenset()
        scopes = _recorded_scopes(node) or common
        for name in node.input:
            scopes_of_readers[name].append(scopes)
        scoped.append((node, scopes))
    return scoped[::-1]


def _recorded_scopes(node: NodeProto) -> frozenset[str]:
    for prop in node.metadata_props:
        if prop.key == SCOPES_KEY:
            return frozenset(ast.literal_eval(prop.value))
    return frozenset()
