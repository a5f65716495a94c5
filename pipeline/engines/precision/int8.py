"""Quantise a float32 ONNX graph to int8 with ONNX Runtime's quantiser.

Pairs of QuantizeLinear and DequantizeLinear stand where operators are to compute in integers. What
suits one backend does not suit another, so there are two schemes; the measurements behind them are
in docs/log.md.
"""

import contextlib
import io
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from models.errors import ArtifactError
from pipeline.core.arrays import Images
from pipeline.engines.precision.dtypes import explained

BATCH = 32  # calibration images that are run at once


@dataclass(frozen=True)
class Scheme:
    """How a graph is quantised; weights are int8, symmetric, with a scale per output channel."""

    kinds: tuple[str, ...]  # the operators that compute in integers
    activations: str  # their type, a name in ONNX Runtime's QuantType
    options: Mapping[str, Any] = field(default_factory=dict)  # of ONNX Runtime's quantiser


PRODUCTS = ("Conv", "Gemm", "MatMul")

# Integers enter the products alone. TensorRT fuses what follows a product into it, unless a
# quantisation is in between; it supports neither zero points nor an int32 bias.
SYMMETRIC = Scheme(
    kinds=PRODUCTS,
    activations="QInt8",
    options={
        "ActivationSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
    },
)

# ONNX Runtime's CPU kernels multiply unsigned by signed bytes, and every way back to float32 costs:
# convolutions and all between them stay in integers. The range of unsigned values does what ReLU
# does.
ONNXRUNTIME = Scheme(
    kinds=(
        *PRODUCTS,
        *("Add", "Mul", "Relu", "Clip", "Sigmoid"),
        *("MaxPool", "AveragePool", "GlobalAveragePool"),
    ),
    activations="QUInt8",
    options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
)

SCHEMES: dict[str | None, Scheme] = {None: SYMMETRIC, "onnxruntime": ONNXRUNTIME}  # by backend


def quantisable(model: ModelProto, scheme: Scheme) -> list[NodeProto]:
    """Return the operators that the scheme quantises.

    Of products those with constant weights, which leaves attention in float32; of additions those
    of a convolution's result, which leaves biases and the residual stream of transformers in
    float32; of multiplications gates, as in SiLU.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    producers = {name: node.op_type for node in model.graph.node for name in node.output}

    def suits(node: NodeProto) -> bool:
        sources = {producers.get(name) for name in node.input}
        if node.op_type in ("Add", "Mul"):
            return ("Conv" if node.op_type == "Add" else "Sigmoid") in sources
        return node.op_type not in PRODUCTS or node.input[1] in constants

    return [node for node in model.graph.node if node.op_type in scheme.kinds and suits(node)]


def quantise(
    model: ModelProto, images: Images, scratch: Path, scheme: Scheme, keep: Collection[str] = ()
) -> ModelProto:
    """Return a float32 graph in int8 but for the operators named in `keep`.

    Args:
        model: the graph; left as it is.
        images: to calibrate on, normalised.
        scratch: a folder for this graph and these images alone: the ranges of activations that the
            first call leaves there serve the next, whatever its scheme.
        scheme: how to quantise.
        keep: names of nodes.

    Raises:
        ArtifactError: nothing is left to quantise, or the quantiser cannot do it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    names = [node.name for node in quantisable(model, scheme) if node.name not in keep]
    if not names:
        raise ArtifactError(f"the graph has none of {', '.join(scheme.kinds)} to quantise")
    source, target = scratch / "source.onnx", scratch / "quantised.onnx"
    onnx.save(model, source)  # a graph in memory would be emptied by the quantiser
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    batches = ({model.graph.input[0].name: part} for part in parts)
    with explained("the graph cannot be quantised"):
        with _silent():
            quantize_static(
                source,
                target,
                SimpleNamespace(get_next=partial(next, batches, None)),
                op_types_to_quantize=sorted({k for s in SCHEMES.values() for k in s.kinds}),
                nodes_to_quantize=names,
                per_channel=True,
                activation_type=QuantType[scheme.activations],
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=scratch / "ranges.json",
                extra_options=dict(scheme.options),
            )
        quantised = onnx.load(target)
        onnx.checker.check_model(quantised, full_check=True)
    onnx.helper.set_model_props(quantised, {item.key: item.value for item in model.metadata_props})
    return quantised


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the quantiser prints and logs out of the stage's output; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
