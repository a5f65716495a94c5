"""How large an ONNX graph is: nodes, parameters, multiply-accumulates, bytes."""

import math

import onnx
from onnx import ModelProto, NodeProto

from pipeline.export.records import GraphSize

FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
Shape = tuple[int, ...]
UNKNOWN: Shape = (0, 0)


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


def _shapes_for_one_image(model: ModelProto) -> dict[str, Shape]:
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
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):  # else even the number of dimensions is unknown
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes


def _size(dimension: str, batch: str) -> int:
    """Return a product such as ``9*batch`` for a batch of one; 0 for anything else."""
    factors = ["1" if factor == batch else factor for factor in dimension.split("*")]
    return math.prod(int(factor) if factor.isdecimal() else 0 for factor in factors)


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
        return 0  # the engine chooses the order, dimensions have no names, or shapes are unknown
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
