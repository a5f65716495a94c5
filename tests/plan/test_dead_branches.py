"""Dead branches: found where the block only adds a constant, and replaced exactly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.blocks import find_blocks
from models.cost import count_macs
from models.surgery import bypass
from models.zoo import create
from pipeline.collapse.channel_maps import as_maps
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.export.exporter import export_onnx
from pipeline.export.parity import compare
from pipeline.export.session import runner
from pipeline.plan.search.dead_branches import TOLERANCE, DeadBranch, _Observed, dead_branches


class Residual(nn.Sequential):
    """x + branch(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class PostActivation(nn.Sequential):
    """relu(x + branch(x)), as in ResNet."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + super().forward(x))


def network(block: nn.Module, *before: nn.Module, channels: int = 4) -> nn.Sequential:
    """A stem, something before the block, the block as child "2", and a head."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *before)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(stem, nn.Identity(), block, head).eval()


def branch(
    *, shift: float, slope: float = 0.0, channels: int = 4, rectifier: type[nn.Module] = nn.ReLU
) -> list[nn.Module]:
    """Widen, norm with that slope and shift, rectify, depthwise, norm, rectify, narrow, norm."""
    torch.manual_seed(1)
    wide = 2 * channels
    layers: list[nn.Module] = [
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        rectifier(),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        rectifier(),
        nn.Conv2d(wide, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
    nn.init.constant_(layers[1].weight, slope)
    nn.init.constant_(layers[1].bias, shift)
    for norm in (layers[4], layers[7]):
        nn.init.uniform_(norm.bias, -1, 1)
        nn.init.uniform_(norm.running_mean, -1, 1)
    return layers


def images(n: int = 24, size: int = 7) -> list[Tensor]:
    return list(torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(2)).split(10))


def dead(model: nn.Module, name: str = "2", size: int = 7) -> DeadBranch | None:
    return dead_branches(model, [name], images(size=size)).get(name)


def removed(model: nn.Module, found: dict[str, DeadBranch]) -> nn.Module:
    return bypass(model, found, {name: branch.replacement for name, branch in found.items()})


def assert_equal(model: nn.Module, shallow: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        assert compare(model(x).numpy(), shallow(x).numpy()).max_rel <= 1e-5


@pytest.fixture(scope="module")
def shipped() -> tuple[nn.Module, dict[str, DeadBranch]]:
    """The authors' MobileNetV2 with ten dead branches, as they ship it, and what is found."""
    torch.manual_seed(0)
    model = create("mobilenetv2_cifar", 10).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -1, 1),
                (norm.running_mean, -1, 1),
                (norm.running_var, 0.5, 2),
            ):
                nn.init.uniform_(values, low, high)
    blocks = [b.name for b in find_blocks(model, torch.zeros(2, 3, 32, 32)) if b.removable]
    for name in blocks:
        block = model.get_submodule(name)
        nn.init.zeros_(block.bn1.weight)  # the norm of the expansion: nothing gets through
        nn.init.uniform_(block.bn1.bias, -1, -0.1)
        nn.init.uniform_(block.bn2.bias, -3, -2)  # and the depthwise convolution's units are off
        nn.init.uniform_(block.bn2.running_mean, 0, 1)
    return model, dead_branches(model, blocks, images(size=32))


def test_ten_dead_branches_of_the_authors_mobilenet(
    shipped: tuple[nn.Module, dict[str, DeadBranch]], tmp_path: Path
) -> None:
    """METHOD: λ = 9 leaves ten of MobileNetV2's units at distance zero; 87.98 → 37.37 MMACs."""
    model, found = shipped
    x = torch.randn(8, 3, 32, 32)
    shallow = removed(model, found)
    assert len(found) == 10
    assert max(branch.largest_deviation for branch in found.values()) < 1e-6
    assert all(branch.replacement.bias.abs().max() > 0.1 for branch in found.values())
    assert count_macs(model, x) / 1e6 == pytest.approx(87.98, abs=0.005)
    assert count_macs(shallow, x) / 1e6 == pytest.approx(37.37, abs=0.005)
    assert_equal(model, shallow, x)
    source = export_onnx(model, x, tmp_path / "model.onnx")
    replacements = {name: branch.replacement for name, branch in found.items()}
    maps = as_maps(replacements)
    report = collapse_onnx(source, tmp_path / "shallow.onnx", list(found), maps)
    assert (report.before.macs, report.after.macs) == (count_macs(model, x), count_macs(shallow, x))
    logits = [runner(tmp_path / f"{name}.onnx")(x.numpy()) for name in ("model", "shallow")]
    assert compare(*logits).max_rel <= 1e-5


@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.ReLU6])
def test_the_constant_is_what_follows_from_the_weights(rectifier: type[nn.Module]) -> None:
    model = network(Residual(*branch(shift=-0.5, rectifier=rectifier)))
    found = dead(model)
    assert found is not None
    narrowing, norm = model[2][6], model[2][7]
    with torch.no_grad():
        hidden = torch.relu(model[2][4](torch.zeros(1, 8, 1, 1)))  # behind the depthwise part
        expected = norm(narrowing(hidden)).flatten()
    torch.testing.assert_close(found.replacement.bias.detach(), expected, rtol=1e-5, atol=1e-6)


def test_units_off_on_the_calibration_images_are_enough() -> None:
    model = network(Residual(*branch(shift=-20.0, slope=1.0)))
    found = dead(model)
    assert found is not None
    x = images()[0]
    assert_equal(model, removed(model, {"2": found}), x)
    with torch.no_grad():  # on other images the branch is active
        assert not torch.allclose(model(100 * x), removed(model, {"2": found})(100 * x), atol=0.1)


class Saturated(nn.Module):
    """A branch that is constant though no unit is off."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(x + 1000)


def test_a_constant_without_any_unit_off_is_found() -> None:
    model = network(Saturated())
    found = dead(model)
    assert found is not None
    torch.testing.assert_close(found.replacement.bias.detach(), model[2].scale.detach().flatten())


def test_active_branches_are_not_dead_and_cost_one_batch() -> None:
    model = network(Residual(*branch(shift=0.1, slope=1.0)))
    seen: list[int] = []
    model.register_forward_hook(lambda *args: seen.append(len(args[1][0])))
    assert dead(model) is None
    assert seen == [2, 10]  # of 24; two show where the channels are


@pytest.mark.parametrize(("padding", "expected"), [(1, False), (0, True)])
def test_padding_around_units_that_are_on_shows_at_the_borders(
    padding: int, expected: bool
) -> None:
    """A constant that is not zero meets zeros at the border, where the branch is another."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, 0.7)
    last = nn.Conv2d(4, 4, 2 * padding + 1, padding=padding)
    found = dead(network(Residual(nn.Conv2d(4, 4, 1), norm, nn.ReLU(), last)))
    assert (found is not None) == expected


@pytest.mark.parametrize(
    ("bias", "before", "expected"),
    [
        (0.5, nn.ReLU(), True),  # x ≥ 0 and c ≥ 0
        (0.5, nn.Identity(), False),  # x is cut off
        (-0.5, nn.ReLU(), False),
        (-0.5, nn.Hardtanh(1.0, 9.0), True),  # x ≥ 1
        (-0.5, nn.Softplus(threshold=1e-3), False),
        (0.5, nn.Softplus(), True),  # x > 0
    ],
)
def test_a_rectifier_behind_the_addition_must_leave_everything_on(
    bias: float, before: nn.Module, expected: bool
) -> None:
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, bias)
    model = network(PostActivation(nn.Conv2d(4, 4, 3, padding=1), norm), before)
    assert (dead(model) is not None) == expected


def test_basic_blocks_of_a_resnet() -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, width=8).eval()
    names = ["layer1.1", "layer2.1", "layer3.1"]
    nn.init.zeros_(model.layer1[1].bn2.weight)
    nn.init.uniform_(model.layer1[1].bn2.bias, 0, 1)
    nn.init.zeros_(model.layer3[1].bn1.weight)
    nn.init.constant_(model.layer3[1].bn1.bias, -0.1)
    found = dead_branches(model, names, images(size=32))
    assert list(found) == ["layer1.1", "layer3.1"]
    assert_equal(model, removed(model, found), torch.randn(4, 3, 32, 32))


def kill_layer_scale(block: nn.Module) -> None:
    nn.init.zeros_(block.ls1.gamma)
    nn.init.zeros_(block.ls2.gamma)


def kill_gamma(block: nn.Module) -> None:
    nn.init.zeros_(block.gamma)


def kill_projections(block: nn.Module) -> None:
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.uniform_(layer.bias, -1, 1)


def kill_projection_weights_to_zero(block: nn.Module) -> None:
    kill_projections(block)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.bias)


VIT = {"img_size": 32, "depth": 2}
SWIN = {"img_size": 56, "depths": (2, 2), "num_heads": (3, 6)}
TRANSFORMERS: list[tuple[str, dict, str, Callable[[nn.Module], None], bool]] = [
    ("deit3_small_patch16_224", VIT, "blocks.1", kill_layer_scale, True),
    ("vit_tiny_patch16_224", VIT, "blocks.1", kill_projections, False),
    ("convnext_atto", {}, "stages.1.blocks.1", kill_gamma, True),
    ("swin_tiny_patch4_window7_224", SWIN, "layers.0.blocks.1", kill_projections, False),
    (
        "swin_tiny_patch4_window7_224",
        SWIN,
        "layers.0.blocks.1",
        kill_projection_weights_to_zero,
        True,
    ),
]


@pytest.mark.parametrize(("name", "options", "block", "kill", "identity"), TRANSFORMERS)
def test_blocks_of_transformers(
    name: str, options: dict, block: str, kill: Callable[[nn.Module], None], identity: bool
) -> None:
    torch.manual_seed(0)
    model = create(name, 10, **options).eval()
    kill(model.get_submodule(block))
    size = options.get("img_size", 32)
    found = dead_branches(model, [block], images(n=4, size=size))
    assert (found[block].replacement.bias == 0).all() == identity
    assert_equal(model, removed(model, found), torch.randn(2, 3, size, size))


@given(
    st.integers(0, 2**16),
    st.floats(-3, 3),
    st.floats(2.5, 1e6),
    st.floats(1e-3, 1e3),
)
def test_nothing_further_from_a_constant_than_rounding_is_dead(
    seed: int, constant: float, factor: float, size: float
) -> None:
    """One value of one channel that is off by more than the tolerance says so."""
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(3, 4, 5, 5, generator=generator)
    y = x + constant
    assert _Observed.of(x, y, 1).fixed
    where = tuple(int(torch.randint(n, (), generator=generator)) for n in x.shape)
    largest = torch.maximum(x.abs(), y.abs()).max().item()
    y[where] += factor * 2 * TOLERANCE * largest
    assert not _Observed.of(x, y, 1).fixed
    halves = [_Observed.of(x[part], y[part], 1) for part in (slice(2), slice(2, 3))]
    assert not halves[0].and_also(halves[1]).fixed


def test_constants_are_looked_for_along_the_channels_where_an_inner_width_is_the_images() -> None:
    """Vectors of the block that are as long as the image is wide once decided otherwise."""
    narrow = [nn.Conv2d(5, 7, 1), nn.BatchNorm2d(7), nn.BatchNorm2d(7), nn.Conv2d(7, 5, 1)]
    norm = nn.BatchNorm2d(5, affine=True)
    nn.init.zeros_(norm.weight)
    nn.init.uniform_(norm.bias, -1, 1)
    model = network(Residual(*narrow, norm), channels=5)
    found = dead(model, size=7)
    assert found is not None
    assert found.replacement.axis == 1
    torch.testing.assert_close(found.replacement.bias.detach(), norm.bias.detach())
