"""The small network of `tiny_onnx` in every precision, made by ONNX Runtime's converters."""

import logging
from pathlib import Path

import onnx
from ml_dtypes import bfloat16
from onnx import TensorProto, numpy_helper
from tiny_onnx import some_images, write_network


def write_typed(path: Path, precision: str, depth: int = 3, width: int = 32) -> Path:
    """Write the network with float32 inputs and outputs and weights of a precision.

    ``int8`` suits TensorRT (symmetric, float bias), ``int8 for CPUs`` ONNX Runtime.
    """
    plain = path.with_name(f"plain-{path.name}")
    write_network(plain, depth, width)
    WRITERS[precision](plain, path)
    plain.unlink(missing_ok=True)
    return path


def _float16(plain: Path, path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), path)


def _bfloat16(plain: Path, path: Path) -> None:
    """Write the float16 graph with the other type's name, its weights from the float32 one."""
    _float16(plain, path)
    exact = {t.name: numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer}
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = exact[tensor.name].astype(bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.i) == ("Cast", TensorProto.FLOAT16):
                attribute.i = TensorProto.BFLOAT16
    del model.graph.value_info[:]
    onnx.save(model, path)


def _int8(plain: Path, path: Path, *, for_cpu: bool = False) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"images": some_images(16)}])

        def get_next(self) -> dict | None:
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # it advises folding batch norms: there are none
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(
        plain,
        path,
        Images(),
        per_channel=True,
        activation_type=QuantType.QUInt8 if for_cpu else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={} if for_cpu else symmetric,
    )


WRITERS = {
    "fp32": lambda plain, path: plain.rename(path),
    "fp16": _float16,
    "bf16": _bfloat16,
    "int8": _int8,
    "int8 for CPUs": lambda plain, path: _int8(plain, path, for_cpu=True),
}
