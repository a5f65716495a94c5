"""Export a network to ONNX with its block boundaries recorded in the file.

The dynamo exporter writes each node's module path into the node's metadata; from it the one
activation that enters and the one that leaves each block are found here, while that metadata
still exists, and stored in the model's own metadata for `collapse`.
"""

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from models.blocks import Block, find_blocks
from models.errors import ShoalError
from pipeline.artifacts import replace_file
from pipeline.onnx_graph import Boundary, load_onnx, record_boundaries

INPUT, OUTPUT = "images", "logits"
SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Write `model` as ONNX with a dynamic batch, checked by `onnx.checker`.

    Args:
        model: a network on the CPU; exported in evaluation mode.
        example: images (n, c, h, w) of the size to export for.
        path: target file, replaced only once the new one is whole.

    Raises:
        ShoalError: the exporter cannot translate the network.
    """
    example = torch.cat([example, example])[:2]  # a batch of one would be taken for a constant
    was_training = model.training
    try:
        exported = _translate(model.eval(), example)
    finally:
        model.train(was_training)
    record_boundaries(exported, find_boundaries(exported, find_blocks(model, example)))
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
    return [_boundary(model, block, activations) for block in blocks]


def _boundary(model: ModelProto, block: Block, activations: set[str]) -> Boundary:
    inside: list[NodeProto] = []
    outside: list[NodeProto] = []
    for node in model.graph.node:
        (inside if block.name in _scopes(node) else outside).append(node)
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


def _scopes(node: NodeProto) -> list[str]:
    """Return the dotted paths of the modules a node was traced in."""
    for prop in node.metadata_props:
        if prop.key == SCOPES_KEY:
            return [str(scope) for scope in ast.literal_eval(prop.value)]
    return []
