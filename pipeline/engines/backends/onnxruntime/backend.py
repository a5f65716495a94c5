"""ONNX Runtime: graphs optimised ahead of time, run on the CPU, or on CUDA where it can."""

import re
from collections import Counter
from errno import EIO
from pathlib import Path
from typing import Any

from onnx import NodeProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from models.errors import BackendError
from pipeline.core.hardware import cpu_features, cpu_name, cuda_devices, usable_cores
from pipeline.core.params import Build
from pipeline.engines.backends.interface import Bound, Engine, Job, PrecisionEvidence
from pipeline.engines.backends.packages import CpuBackend, captured_stderr
from pipeline.engines.backends.weights import read_model, weight_bytes
from pipeline.export.session import CPU, bind, open_session, providers

STAMP = re.compile(r"\x1b\[[\d;]*m|[\d-]+ [\d:.]+ (?=\[)")  # colours and the time of a message
MATRIX = re.compile("Conv|Gemm|MatMul|Attention")
INTEGER = re.compile("^Q|Integer|^DynamicQuantizeMatMul$")  # QLinearConv, MatMulIntegerToFloat, …


class OnnxRuntime(CpuBackend):
    """An engine is the graph as ONNX Runtime optimises it for this machine."""

    package, fix = "onnxruntime", "pip install ."
    suffix = "onnx"

    def target(self, options: Build) -> dict[str, Any]:
        """Return the CPU, by which weights are laid out, and the GPU where one is used."""
        on_gpu = providers()[0] != CPU
        return {
            "cpu": cpu_name(),
            "cpu_features": cpu_features(),
            "device": cuda_devices()[0].name if on_gpu else None,
        }

    def build(self, job: Job) -> list[str]:
        """Write the optimised graph: constants folded, operators fused."""
        with captured_stderr() as printed:
            try:
                open_session(job.source, usable_cores(), providers(), optimised=job.target)
            except BackendError as e:
                open_session(job.source, usable_cores(), providers())  # fails by the network alone
                raise OSError(EIO, str(e), str(job.target)) from e
        return [STAMP.sub("", line) for line in printed]

    def inspect(self, job: Job) -> PrecisionEvidence:
        """Return the types of weights and operators in the optimised graph, which is what runs."""
        return PrecisionEvidence(
            "optimised graph", weight_bytes(job.target), matrix_operators(job.target)
        )

    def load(self, path: Path, threads: int) -> Engine:
        """Open an optimised graph as it is, without optimising it again.

        ONNX Runtime shows no CUDA stream of its own, so there is no time of the device alone.
        """
        session = open_session(path, threads, providers(), optimise=False)
        return lambda images: Bound(bind(session, images))


def matrix_operators(path: Path) -> dict[str, int]:
    """Return the number of operators with weights by the type they compute in.

    Those are convolutions and matrix products with a constant of two or more dimensions. A weight
    that is dequantised on its way counts as the float that comes out.
    """
    graph = read_model(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scales = {
        node.output[0]: constants[node.input[1]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    weights = scales | {name: t for name, t in constants.items() if len(t.dims) >= 2}
    matrices = (node for node in graph.node if MATRIX.search(node.op_type))
    return dict(Counter(kind for node in matrices if (kind := _kind(node, weights))))


def _kind(node: NodeProto, weights: dict[str, TensorProto]) -> str | None:
    """Return the type an operator computes in; None where it has no weights."""
    own = [weights[name] for name in node.input if name in weights]
    if own and INTEGER.search(node.op_type):
        return "int8"
    return str(tensor_dtype_to_np_dtype(own[0].data_type)) if own else None
