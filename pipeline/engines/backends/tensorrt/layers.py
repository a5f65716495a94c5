"""The layers of a TensorRT engine: what its inspector and its profiler report of them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.engines.backends.interface import LayerTime
from pipeline.engines.backends.weights import ITEM_BYTES

# As the inspector of version 10 and later names data types, in formats ("Channel major FP16 format
# where C % 8 == 0"), by themselves ("Half") and of weights ("Half", "BFloat16").
SPELLINGS = re.compile(
    r"\b((?P<bfloat16>BF16|BFloat16)|(?P<float16>FP16|Half|Float16)"
    r"|(?P<float32>FP32|Float|Float32)|(?P<int8>Int8|INT8))\b"
)
MATRIX = re.compile(r"conv|gemm|matmul|matrix", re.IGNORECASE)
KIND = ("LayerType", "ParameterType", "TacticName")  # where a layer's operator is named
NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")

Layer = dict[str, Any]  # as the inspector describes it


def parse_layers(information: str) -> list[Layer]:
    """Read what ``get_engine_information(LayerInformationFormat.JSON)`` returns.

    An engine built without detailed verbosity has names alone.
    """
    described = json.loads(information).get("Layers", [])
    return [entry if isinstance(entry, dict) else {"Name": entry} for entry in described]


def layer_times(layers: Iterable[Layer], reported: Iterable[tuple[str, float]]) -> list[LayerTime]:
    """Give the times that the profiler reported, in ms, the ONNX nodes of their layers."""
    nodes = {layer["Name"]: tuple(NODE.findall(layer.get("Metadata", ""))) for layer in layers}
    return [LayerTime(name, ms, nodes.get(name, ())) for name, ms in reported]


def weight_bytes(layers: Iterable[Layer]) -> dict[str, int]:
    """Return the bytes of all weights by data type."""
    found: Counter[str] = Counter()
    for weights in filter(None, (layer.get("Weights") for layer in layers)):
        if kind := _data_type(weights["Type"]):
            found[kind] += ITEM_BYTES[kind] * int(weights["Count"])
    return dict(found)


def matrix_operators(layers: Iterable[Layer]) -> dict[str, int]:
    """Return the number of convolutions and matrix products by the type of their first input."""
    found: Counter[str] = Counter()
    for layer in layers:
        inputs = layer.get("Inputs", [])
        spelled = (one.get("Datatype") or one.get("Format/Datatype") or "" for one in inputs)
        kind = next(filter(None, map(_data_type, spelled)), None)
        if kind and any(MATRIX.search(layer.get(key, "")) for key in KIND):
            found[kind] += 1
    return dict(found)


def _data_type(text: str) -> str:
    """Return the data type as ONNX names it; "" where it is another or unknown."""
    found = SPELLINGS.search(text)
    return next(name for name, part in found.groupdict().items() if part) if found else ""
