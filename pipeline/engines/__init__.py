"""The backends by name. A new one is a module with the functions of `Backend` and a row here."""

from functools import partial

from pipeline.engines import (
    onnxruntime,
    openvino,
    tensorrt,
    tensorrt_build,
    tensorrt_inspect,
    tensorrt_run,
)
from pipeline.engines.interface import Backend
from pipeline.engines.tensorrt import TENSORRT, TENSORRT_RTX


def _tensorrt(flavour: tensorrt.Flavour) -> Backend:
    return Backend(
        suffix="engine",
        precision="fp32, TF32 in convolutions and matrix products",
        tolerance=1e-2,
        strongly_typed=True,
        version=partial(tensorrt.version, flavour),
        check=partial(tensorrt.check, flavour),
        runnable=partial(tensorrt.runnable, flavour),
        target=partial(tensorrt.target, flavour),
        build=partial(tensorrt_build.build, flavour),
        inspect=partial(tensorrt_inspect.inspect, flavour),
        load=partial(tensorrt_run.load, flavour),
    )


BACKENDS: dict[str, Backend] = {
    "onnxruntime": Backend(
        suffix="onnx",
        precision="fp32",
        tolerance=1e-3,
        strongly_typed=False,
        version=onnxruntime.version,
        check=onnxruntime.check,
        runnable=onnxruntime.runnable,
        target=onnxruntime.target,
        build=onnxruntime.build,
        inspect=onnxruntime.inspect,
        load=onnxruntime.load,
    ),
    "openvino": Backend(
        suffix="blob",
        precision="fp32",
        tolerance=1e-3,
        strongly_typed=False,
        version=openvino.version,
        check=openvino.check,
        runnable=openvino.runnable,
        target=openvino.target,
        build=openvino.build,
        inspect=openvino.inspect,
        load=openvino.load,
    ),
    "tensorrt_rtx": _tensorrt(TENSORRT_RTX),
    "tensorrt": _tensorrt(TENSORRT),
}
