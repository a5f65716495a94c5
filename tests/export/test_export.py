"""The exported file: equal to PyTorch at any batch size, checked, with its block boundaries."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from places import ROOT
from torch import Tensor, nn

from models.errors import ShoalError
from models.zoo import create
from pipeline.export.boundaries import load_onnx, read_boundaries
from pipeline.export.exporter import PlainAttention, export_onnx, forget_builder
from pipeline.export.session import runner


def test_equal_to_pytorch_at_any_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8).train()
    path = export_onnx(model, torch.zeros(1, 1, 32, 32), tmp_path / "model.onnx")
    assert model.training  # left as it was
    run = runner(path)
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


EXPORT = """
import sys, torch
from pathlib import Path
from models.zoo import create
from pipeline.export.exporter import export_onnx
torch.manual_seed(0)
export_onnx(create("resnet18_cifar", 10, width=4), torch.zeros(1, 3, 16, 16), Path(sys.argv[1]))
"""


def test_another_folder_and_user_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.onnx") for number in range(2)]
    monkeypatch.setattr(sys, "argv", ["", files[0]])
    exec(EXPORT)
    home = tmp_path / "home" / "someone"
    for package in ("models", "pipeline"):
        shutil.copytree(ROOT / package, home / package)
    other = {"HOME": str(home), "USER": "someone", "PYTHONPATH": str(home)}
    command = [sys.executable, "-c", EXPORT, files[1]]
    subprocess.run(command, check=True, cwd=home, env=os.environ | other)
    first, second = (Path(file).read_bytes() for file in files)
    assert first == second
    model = onnx.load_from_string(first)
    assert [entry.key for entry in model.metadata_props] == ["shoal.blocks"]
    for node in model.graph.node:
        assert [entry.key for entry in node.metadata_props] == ["pkg.torch.onnx.name_scopes"]
    for text in (str(ROOT), str(home), "someone", "site-packages", "def forward"):
        assert text.encode() not in first


def test_texts_are_dropped_wherever_onnx_can_hold_them() -> None:
    """In the model, a graph, its tensors, a branch inside of a node, and functions."""
    note = {"doc_string": "/home/someone", "metadata_props": [{"key": "a", "value": "/home/b"}]}
    kept = [*note["metadata_props"], {"key": "shoal.x", "value": "kept"}]
    inner = onnx.GraphProto(name="inner", node=[onnx.NodeProto(op_type="Relu", **note)], **note)
    branch = onnx.AttributeProto(name="then", g=inner, doc_string="/home/someone")
    graph = onnx.GraphProto(
        node=[onnx.NodeProto(op_type="If", attribute=[branch])],
        initializer=[onnx.TensorProto(name="w", raw_data=b"1234", **note)],
        value_info=[onnx.ValueInfoProto(name="x", **note)],
    )
    function = onnx.FunctionProto(name="f", node=[onnx.NodeProto(op_type="Add", **note)], **note)
    model = onnx.ModelProto(graph=graph, functions=[function], **note | {"metadata_props": kept})
    forget_builder(model)
    assert b"home" not in model.SerializeToString()
    assert [entry.value for entry in model.metadata_props] == ["kept"]
    assert model.graph.initializer[0].raw_data == b"1234"
    assert model.graph.node[0].attribute[0].g.node[0].op_type == "Relu"


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


class Ends(nn.Module):
    """Two blocks, one of which does nothing, that end the network."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Affine(1.0), Affine(0.0), Affine(1.0)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Affine(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 4), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x) if self.scale else x + 0


def test_a_block_that_is_not_in_the_graph_is_named_and_not_removable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_onnx(Ends(), torch.ones(1, 4), tmp_path / "model.onnx")
    boundaries = read_boundaries(load_onnx(path))
    assert boundaries["blocks.1"].reason == "is already the identity in the ONNX graph"
    assert not boundaries["blocks.0"].reason
    assert not boundaries["blocks.2"].reason
    assert (
        "warning: block blocks.1 is not removable: it is already the identity"
        in capsys.readouterr().err
    )
    assert [v.name for v in load_onnx(path).graph.output] == ["logits"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"enable_gqa": True},
        {"attn_mask": torch.randn(5, 5)},
        {"attn_mask": torch.eye(5, dtype=torch.bool)},
    ],
)
@pytest.mark.parametrize("shape", [(2, 4, 5, 8), (2, 3, 4, 5, 8)])
def test_attention_as_matrix_products_is_the_fused_one(
    shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(shape) for _ in range(3))
    if "enable_gqa" in options:
        key, value = key[..., :2, :, :], value[..., :2, :, :]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    with PlainAttention():
        found = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected)
