"""What goes into a network and what comes out, read from its graph."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from models.errors import ArtifactError
from pipeline.export.boundaries import load_onnx


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a network."""

    name: str
    type: str  # as NumPy names it, e.g. ``float32``
    shape: tuple[int, ...]  # of one image, without the batch


def tensors(network: Path) -> tuple[TensorFacts, TensorFacts]:
    """Return the input and the output of an ONNX file.

    Raises:
        ArtifactError: it is not a network of one input and one output whose shapes are fixed but
            for the batch, or its weights lie in another file.
    """
    model = load_onnx(network)
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise ArtifactError(
            f"{network} has {len(model.graph.input)} inputs and {len(model.graph.output)} outputs; "
            "needs one of each"
        )
    return _facts(network, model.graph.input[0]), _facts(network, model.graph.output[0])


def _facts(network: Path, value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_value for dimension in tensor.shape.dim[1:])
    if not shape or not all(shape):
        raise ArtifactError(
            f"{network}: tensor {value.name!r} has no fixed shape beside its batch; export it again"
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorFacts(value.name, str(dtype), shape)
