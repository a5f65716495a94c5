"""The layers of a TensorRT engine: what its inspector and its profiler tell of them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.engines.interface import LayerTime
from pipeline.engines.weights import ITEM_BYTES

# As the inspector of version 10 and later names data types, in formats ("Channel major FP16 format
# where C % 8 == 0"), by themselves ("Half") and of weights ("Half", "BFloat16").
SPELLINGS = {
    "bfloat16": r"BF16|BFloat16",
    "float16": r"FP16|Half|Float16",
    "float32": r"FP32|Float|Float32",
    "int8": r"Int8|INT8",
}
MATRIX = re.compile(r"conv|gemm|matmul|matrix", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: of the layer; the profiler uses the same.
        nodes: the ONNX nodes it computes.
        kind: its type and kernel, as TensorRT names them.
        inputs: data types of its input tensors; "" where unknown.
        weights: data type and number of its weights, where it has any.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    inputs: tuple[str, ...]
    weights: tuple[str, int] | None


def parse_layers(information: str) -> list[Layer]:
    """Read what ``get_engine_information(LayerInformationFormat.JSON)`` returns.

    An engine built without detailed verbosity has names alone.
    """
    described = json.loads(information).get("Layers", [])
    return [_layer(entry if isinstance(entry, dict) else {"Name": entry}) for entry in described]


def layer_times(layers: Iterable[Layer], reported: Iterable[tuple[str, float]]) -> list[LayerTime]:
    """Give the times that the profiler reported, in ms, the ONNX nodes of their layers."""
    nodes = {layer.name: layer.nodes for layer in layers}
    return [LayerTime(name, ms, nodes.get(name, ())) for name, ms in reported]


def weight_bytes(layers: Iterable[Layer]) -> dict[str, int]:
    """Return the bytes of all weights by data type."""
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.weights and layer.weights[0] in ITEM_BYTES:
            kind, number = layer.weights
            found[kind] += ITEM_BYTES[kind] * number
    return dict(found)


def matrix_operators(layers: Iterable[Layer]) -> dict[str, int]:
    """Return the number of convolutions and matrix products by the type of their first input."""
    matrices = (layer for layer in layers if MATRIX.search(layer.kind) and any(layer.inputs))
    return dict(Counter(next(filter(None, layer.inputs)) for layer in matrices))


def _layer(entry: dict[str, Any]) -> Layer:
    weights = entry.get("Weights")
    return Layer(
        name=entry["Name"],
        nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", entry.get("Metadata", ""))),
        kind=" ".join(entry.get(key, "") for key in ("LayerType", "ParameterType", "TacticName")),
        inputs=tuple(_data_type(tensor) for tensor in entry.get("Inputs", [])),
        weights=(_spelled(weights["Type"]), int(weights["Count"])) if weights else None,
    )


def _data_type(tensor: dict[str, Any]) -> str:
    return _spelled(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")


def _spelled(text: str) -> str:
    for name, spelling in SPELLINGS.items():
        if re.search(rf"\b({spelling})\b", text):
            return name
    return ""
