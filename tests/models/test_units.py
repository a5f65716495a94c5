"""Units found by structure, and removed in PyTorch and in ONNX alike."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.cost import count_macs
from models.surgery import bypass
from models.units import UNITS, Unit, depthwise_units, mlp_branch_units
from models.zoo import create
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.export.exporter import export_onnx
from pipeline.export.parity import compare
from pipeline.export.session import runner


def names(units: list[Unit]) -> list[str]:
    return [unit.name for unit in units]


def removable(units: list[Unit]) -> list[Unit]:
    return [unit for unit in units if unit.removable]


def with_signal(model: nn.Module) -> nn.Module:
    """Give batch norms what training would: at their start many activations hardly matter."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def test_modules_in_a_sequence_of_their_own_have_its_name() -> None:
    """torchvision's MobileNetV2: the very modules that the authors name (METHOD §1)."""
    model = torchvision.models.mobilenet_v2(weights=None)
    units = depthwise_units(model, torch.zeros(2, 3, 64, 64))
    features = (3, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17)
    assert names(removable(units)) == [f"features.{n}.conv.1" for n in features]


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenetv2_cifar", 32), ("mobilenetv3_small_050", 64)]
)
def test_depthwise_units_are_removed_from_the_onnx_graph(
    name: str, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = with_signal(create(name, 10))
    images = torch.randn(3, 3, size, size)
    units = depthwise_units(model, images)
    source = export_onnx(model, images[:1], tmp_path / "model.onnx", blocks=units)
    every = names(removable(units))
    for remove in (every[:1], every[1::3], every):
        report = collapse_onnx(source, tmp_path / "shallow.onnx", remove)
        shallow = bypass(model, remove)
        with torch.inference_mode():
            expected, whole = shallow(images), model(images)
        assert (expected - whole).abs().max() > 0.01 * whole.abs().max()
        produced = runner(tmp_path / "shallow.onnx")(images.numpy())
        assert compare(expected.numpy(), produced).max_rel <= 1e-4
        assert report.after.macs == count_macs(shallow, images)


class Inverted(nn.Module):
    """An inverted residual with the pieces of its depthwise layer as given."""

    def __init__(self, *depthwise: nn.Module, widened: int = 12) -> None:
        super().__init__()
        self.widen = nn.Conv2d(4, widened, 1)
        self.depthwise = nn.ModuleList(depthwise)
        self.narrow = nn.Conv2d(widened, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x)
        for layer in self.depthwise:
            y = layer(y)
        return x + self.narrow(y)


def pieces(width: int = 12) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width)


def one_unit(block: nn.Module) -> Unit:
    network = nn.Sequential(nn.ModuleDict({"only": block})["only"], nn.Flatten())
    (unit,) = depthwise_units(network, torch.zeros(2, 4, 8, 8))
    return unit


def test_what_follows_a_depthwise_convolution_belongs_to_it() -> None:
    unit = one_unit(Inverted(*pieces(), nn.Identity(), nn.ReLU(inplace=True), nn.Dropout()))
    assert unit.removable
    assert unit.name == "0.depthwise.0+1+2+3+4"
    unit = one_unit(Inverted(*pieces(), nn.Hardswish(), nn.Identity()))
    assert unit.name == "0.depthwise.0+1+2"  # an identity at the end is nobody's


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Inverted(*pieces()), "is not followed by a norm and an activation"),
        (Inverted(pieces()[0], nn.ReLU()), "is not followed by a norm and an activation"),
        (Inverted(*pieces(4), nn.ReLU(), widened=4), "which does not widen its input"),
        (
            Inverted(nn.Conv2d(12, 12, 3, groups=12), nn.BatchNorm2d(12), nn.ReLU()),
            "changes shape (12, 8, 8) to (12, 6, 6)",
        ),
    ],
)
def test_why_a_depthwise_convolution_is_not_offered(block: nn.Module, reason: str) -> None:
    if "changes" in reason:
        block.narrow = nn.ConvTranspose2d(12, 4, 3)
    unit = one_unit(block)
    assert not unit.removable
    assert reason in unit.reason


def test_a_dead_unit_is_still_found() -> None:
    """The structure decides, not the values: the units of a trained network are the same."""
    model, image = create("mobilenetv2_cifar", 10), torch.zeros(2, 3, 32, 32)
    before = depthwise_units(model, image)
    with torch.no_grad():
        model.get_submodule("blocks.3.1.bn2").bias.fill_(-100)
    assert depthwise_units(model, image) == before


def test_a_gate_that_narrows_is_no_mlp() -> None:
    """Squeeze-and-excitation ends a ResNet's block with two 1×1 convolutions as well."""
    units = mlp_branch_units(create("seresnet18", 10), torch.zeros(2, 3, 64, 64))
    kept = {unit.reason for unit in units if unit.in_shape == unit.out_shape}
    assert kept == {"does not end in an MLP"}


@pytest.mark.parametrize(
    ("name", "size", "branch"),
    [
        ("vit_tiny_patch16_224", 224, "mlp"),
        ("convnext_atto", 64, "mlp"),
        ("mixer_s32_224", 224, "mlp_channels"),
    ],
)
def test_the_mlp_is_found_by_its_structure(name: str, size: int, branch: str) -> None:
    units = removable(mlp_branch_units(create(name, 10), torch.zeros(2, 3, size, size)))
    assert len(units) == {"vit": 12, "convnext": 12, "mixer": 8}[name.partition("_")[0]]
    assert all((u.entering, u.leaving) == (u.name, f"{u.name}.{branch}") for u in units)


def test_the_network_is_left_as_it_was() -> None:
    model = create("mobilenetv2_cifar", 10).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for find in UNITS.values():
        find(model, torch.randn(4, 3, 32, 32))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
