"""The exported file: equal to PyTorch at any batch size, checked, with its block boundaries."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import ShoalError
from models.zoo import create
from pipeline.engines import onnxruntime
from pipeline.export import export_onnx
from pipeline.onnx_graph import load_onnx, read_boundaries


def test_equal_to_pytorch_at_any_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8).train()
    path = export_onnx(model, torch.zeros(1, 1, 32, 32), tmp_path / "model.onnx")
    assert model.training  # left as it was
    run = onnxruntime.runner(path)
    model.eval()
    for batch in (1, 2, 7):
        images = torch.randn(batch, 1, 32, 32)
        expected = model(images).detach().numpy()
        torch.testing.assert_close(run(images.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_every_block_is_recorded_with_one_tensor_in_and_one_out(tmp_path: Path) -> None:
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    path = export_onnx(model, torch.zeros(1, 1, 32, 32), tmp_path / "model.onnx")
    boundaries = read_boundaries(load_onnx(path))
    assert list(boundaries) == [f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)]
    assert all(len(b.inputs) == len(b.outputs) == 1 for b in boundaries.values() if not b.reason)
    assert boundaries["layer1.1"].inputs == boundaries["layer1.0"].outputs != []
    assert boundaries["layer2.0"].reason.startswith("changes shape")


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match="DataDependent cannot be exported to ONNX"):
        export_onnx(DataDependent(), torch.ones(1, 4), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
