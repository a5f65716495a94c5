"""The backends by name. A new one is a module with the functions of `Backend` and a row here."""

from functools import partial

from pipeline.engines import onnxruntime, openvino, tensorrt
from pipeline.engines.interface import Backend
from pipeline.engines.tensorrt import TENSORRT, TENSORRT_RTX


def _tensorrt(flavour: tensorrt.Flavour) -> Backend:
    return Backend(
        suffix="engine",
        precision="fp32, TF32 in convolutions and matrix products",
        tolerance=1e-2,
        version=partial(tensorrt.version, flavour),
        check=partial(tensorrt.check, flavour),
        runnable=partial(tensorrt.runnable, flavour),
        build=partial(tensorrt.build, flavour),
        load=partial(tensorrt.load, flavour),
    )


BACKENDS: dict[str, Backend] = {
    "onnxruntime": Backend(
        suffix="onnx",
        precision="fp32",
        tolerance=1e-3,
        version=onnxruntime.version,
        check=onnxruntime.check,
        runnable=onnxruntime.runnable,
        build=onnxruntime.build,
        load=onnxruntime.load,
    ),
    "openvino": Backend(
        suffix="blob",
        precision="fp32",
        tolerance=1e-3,
        version=openvino.version,
        check=openvino.check,
        runnable=openvino.runnable,
        build=openvino.build,
        load=openvino.load,
    ),
    "tensorrt_rtx": _tensorrt(TENSORRT_RTX),
    "tensorrt": _tensorrt(TENSORRT),
}
