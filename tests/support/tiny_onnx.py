"""A small real ONNX network for tests, and the same network in torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

SIZE, CLASSES = 12, 5


def write_network(
    path: Path, depth: int = 2, width: int = 8, seed: int = 0, size: int = SIZE
) -> Callable:
    """Write `depth` convolutions with ReLU, mean and classifier; return images -> logits in torch.

    Input "images" (batch, 1, size, size), output "logits" (batch, 5), dynamic batch.
    """
    random = np.random.default_rng(seed)
    shapes = [(width, 1 if i == 0 else width, 3, 3) for i in range(depth)] + [(CLASSES, width)]
    weights = [random.normal(0, 0.3, shape).astype(np.float32) for shape in shapes]
    nodes, last = [], "images"
    for i in range(depth):
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"conv{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]),
        ]
        last = f"relu{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
        helper.make_node("Gemm", ["features", f"w{depth}"], ["logits"], transB=1),
    ]
    for node in nodes:
        node.name = f"node_{node.output[0]}"
    images, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("images", (1, size, size)), ("logits", (CLASSES,)))
    )
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "tiny", [images], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)

    def reference(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images)
        for weight in weights[:-1]:
            x = functional.conv2d(x, torch.from_numpy(weight), padding=1).relu()
        return (x.mean((2, 3)) @ torch.from_numpy(weights[-1]).T).numpy()

    return reference


def some_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, SIZE, SIZE)).astype(np.float32)
