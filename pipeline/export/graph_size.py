"""Facts about an ONNX graph: how large it is, and the block boundaries recorded in it."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto
from pydantic import TypeAdapter, ValidationError

from models.errors import ArtifactError

BLOCKS_KEY = "shoal.blocks"  # model metadata: the recorded boundaries, as JSON
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}


@dataclass(frozen=True)
class Boundary:
    """A block in the graph: which activation tensors enter and leave it."""

    name: str  # the module's dotted path, as `find_blocks` gives it
    inputs: list[str]
    outputs: list[str]
    reason: str  # why the block cannot be removed; empty where it can


@dataclass(frozen=True)
class GraphSize:
    """The size of a graph; MACs are multiply-accumulates for one image."""

    nodes: int
    parameters: int  # floating-point constants, batch norm folded as the exporter left it
    macs: int | None  # None where an operator or a shape keeps them from being counted
    size_bytes: int


def load_onnx(path: Path) -> ModelProto:
    """Load and check an ONNX file.

    Raises:
        ArtifactError: the file is missing, truncated or not a valid model.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except (FileNotFoundError, IsADirectoryError) as e:
        raise ArtifactError(f"{path} is not a file; `dvc repro` makes it") from e
    except (
        DecodeError,
        ValueError,  # of types that there are not, and of names that are no text
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as e:
        raise ArtifactError(f"{path} is not a valid ONNX model ({e}); export it again") from e
    return model


def record_boundaries(model: ModelProto, boundaries: Iterable[Boundary]) -> None:
    """Write the block boundaries into the model's metadata, replacing what was there."""
    values = {prop.key: prop.value for prop in model.metadata_props}
    values[BLOCKS_KEY] = json.dumps([asdict(boundary) for boundary in boundaries])
    onnx.helper.set_model_props(model, values)


def read_boundaries(model: ModelProto) -> dict[str, Boundary]:
    """Return the recorded blocks by name.

    Raises:
        ArtifactError: the file was not written by `export_onnx`.
    """
    for prop in model.metadata_props:
        if prop.key == BLOCKS_KEY:
            try:
                found = TypeAdapter(list[Boundary]).validate_json(prop.value)
            except ValidationError as e:
                why = e.errors()[0]["msg"]
                raise ArtifactError(
                    f"the block boundaries in the ONNX file are damaged ({why}); export it again"
                ) from e
            return {boundary.name: boundary for boundary in found}
    raise ArtifactError(
        "the ONNX file records no block boundaries; export it with pipeline.export.export_onnx"
    )


def graph_size(model: ModelProto) -> GraphSize:
    """Count nodes, floating-point parameters, MACs for one image, and serialised bytes."""
    constants = [t for t in model.graph.initializer if t.data_type in FLOATS]
    return GraphSize(
        nodes=len(model.graph.node),
        parameters=sum(math.prod(t.dims) for t in constants),
        macs=_count_macs(model),
        size_bytes=model.ByteSize(),
    )


def _count_macs(model: ModelProto) -> int | None:
    """Sum the MACs of convolutions and matrix products, as torch's FLOP counter does."""
    shapes = _shapes_for_one_image(model)
    total = 0
    for node in model.graph.node:
        if node.op_type in MACS:
            inputs = [shapes.get(name, UNKNOWN) for name in node.input]
            macs = MACS[node.op_type](node, inputs, shapes.get(node.output[0], UNKNOWN))
            if macs == 0:  # a dimension that could not be inferred
                return None
            total += macs
    return total


def _shapes_for_one_image(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return every tensor's shape with a batch of one, 0 where a dimension is unknown.

    The exporter's own record knows more than inference, which does not see through a shape that
    is computed; inference fills in what has no record.
    """
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    single = ModelProto()
    single.CopyFrom(model)
    for value in [*single.graph.input, *single.graph.value_info, *single.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and (size := _size(dim.dim_param, batch)):
                dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if value.type.tensor_type.HasField(
            "shape"
        ):  # else even the number of dimensions is unknown
            shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes


def _size(dimension: str, batch: str) -> int:
    """Return a product such as ``9*batch`` for a batch of one; 0 for anything else."""
    factors = ["1" if factor == batch else factor for factor in dimension.split("*")]
    return math.prod(int(factor) if factor.isdecimal() else 0 for factor in factors)


Shape = tuple[int, ...]
UNKNOWN: Shape = (0, 0)


def _conv_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    _, weight = inputs[:2]  # (out, in/groups, *kernel)
    return math.prod(output) * math.prod(weight[1:])


def _transposed_conv_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    images, weight = inputs[:2]  # weight (in, out/groups, *kernel)
    return math.prod(images) * math.prod(weight[1:])


def _matmul_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


def _gemm_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    transposed = next((a.i for a in node.attribute if a.name == "transA"), 0)
    return math.prod(output) * inputs[0][0 if transposed else -1]


def _einsum_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    ranks = [len(labels) for labels in operands]
    if len(inputs) != 2 or "." in equation or ranks != [len(shape) for shape in inputs]:
        return 0  # an order of the engine's choice, dimensions without names, or unknown shapes
    sizes = {
        label: size
        for labels, shape in zip(operands, inputs, strict=True)
        for label, size in zip(labels, shape, strict=True)
    }
    return math.prod(sizes.get(label, 0) for label in {*operands[0], *operands[1]})


def _recurrent_macs(node: NodeProto, inputs: list[Shape], output: Shape) -> int:
    sequence, weight, recurrence = inputs[:3]  # (steps, n, in), (directions, gates·hidden, in), …
    return math.prod(sequence[:2]) * (math.prod(weight) + math.prod(recurrence))


MACS = {
    "Conv": _conv_macs,
    "ConvTranspose": _transposed_conv_macs,
    "Einsum": _einsum_macs,
    "Gemm": _gemm_macs,
    "GRU": _recurrent_macs,
    "LSTM": _recurrent_macs,
    "MatMul": _matmul_macs,
    "RNN": _recurrent_macs,
}
