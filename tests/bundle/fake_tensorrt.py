"""The part of TensorRT's Python API that a bundle calls, for plans that are ONNX files.

It computes with ONNX Runtime on the memory whose addresses it is given.
"""

import ctypes
import os
from enum import Enum, IntEnum

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph, InvalidProtobuf

__version__ = "10.0.0"
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        try:
            return ICudaEngine(onnxruntime.InferenceSession(plan))
        except (RuntimeError, InvalidProtobuf, InvalidGraph):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion failed")
            self.logger.log(ILogger.Severity.WARNING, "a warning")
            return None


class ICudaEngine:
    num_io_tensors = 2

    def __init__(self, session):
        self.session = session
        (self.given,), (self.wanted,) = session.get_inputs(), session.get_outputs()

    def get_tensor_name(self, index):
        return (self.wanted.name, self.given.name)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self.given.name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.given.type

    def get_tensor_profile_shape(self, name, profile):
        assert (name, profile) == (self.given.name, 0)
        return [(batch, *self.given.shape[1:]) for batch in (3, 3, 3)]

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self.engine, self.addresses = engine, {}

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return shape[0] == 3

    def get_tensor_shape(self, name):
        return (self.shape[0], *self.engine.wanted.shape[1:])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 0x5EED
        given, wanted = self.engine.given.name, self.engine.wanted.name
        images = np.ctypeslib.as_array(self._floats(given), self.shape)
        (logits,) = self.engine.session.run(None, {given: images})
        out = np.ctypeslib.as_array(self._floats(wanted), logits.shape)
        out[...] = logits
        return True

    def _floats(self, name):
        return ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float))


def nptype(dtype):
    assert dtype == "tensor(float)"
    return np.float32
