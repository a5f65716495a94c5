"""Networks that several tests of engines and precisions read; none of them changes one."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto
from tiny_onnx import write_network

from models.zoo import create
from pipeline.export.exporter import export_onnx


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """A small vision transformer with recorded blocks, of images 3×32×32."""
    torch.manual_seed(0)
    model = create("vit_tiny_patch16_224", 10, img_size=32, depth=2, embed_dim=48, num_heads=3)
    path = tmp_path_factory.mktemp("transformer") / "model.onnx"
    return onnx.load(export_onnx(model.eval(), torch.zeros(1, 3, 32, 32), path))


@pytest.fixture
def tiny(tmp_path: Path) -> ModelProto:
    """Two convolutions with ReLU, weights (8, 1, 3, 3) and (8, 8, 3, 3), a classifier (5, 8)."""
    write_network(tmp_path / "tiny.onnx")
    return onnx.load(tmp_path / "tiny.onnx")
