"""The backends by name. A new one is a folder with a class that satisfies `Backend`, and a row."""

from pipeline.engines.backends.interface import Backend
from pipeline.engines.backends.onnxruntime.backend import OnnxRuntime
from pipeline.engines.backends.openvino.backend import OpenVino
from pipeline.engines.backends.tensorrt.backend import TensorRT

BACKENDS: dict[str, Backend] = {
    "onnxruntime": OnnxRuntime(),
    "openvino": OpenVino(),
    "tensorrt_rtx": TensorRT(
        "tensorrt_rtx", "TensorRT-RTX", "pip install . on x86-64 Linux installs it", True
    ),
    "tensorrt": TensorRT(
        "tensorrt", "TensorRT", "pip install '.[tensorrt]' beside an NVIDIA GPU", False
    ),
}
