"""The channels are where the layers work along them, whatever numbers happen to be equal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from models.errors import BlockError
from models.replacement.axes import channel_axes
from models.replacement.fitting import fit
from models.surgery import bypass
from models.units import block_units, depthwise_units
from models.zoo import create


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Permuted(nn.Module):
    """A layer that works along the last dimension, applied to another one."""

    def __init__(self, layer: nn.Module, *order: int) -> None:
        super().__init__()
        self.layer, self.order = layer, order

    def forward(self, x: Tensor) -> Tensor:
        moved = self.layer(x.permute(self.order))
        out: Tensor = moved.permute([self.order.index(axis) for axis in range(x.ndim)])
        return out


class Windows(nn.Module):
    """A linear layer on 2×2 windows of (n, h, w, c), as Swin cuts them out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        cut = torch.roll(x, (1, 1), (1, 2)).reshape(n, h // 2, 2, w // 2, 2, c)
        windows = cut.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)
        joined = self.layer(windows).reshape(n, h // 2, w // 2, 2, 2, c)
        return joined.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


class Scaled(nn.Module):
    """Factors of the channels alone; `shape` says which dimension that is."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


class MixedTokens(nn.Module):
    """A linear layer over the tokens of (n, tokens, c), as an MLP-Mixer has."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.linear = nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.transpose(1, 2)).transpose(1, 2)
        return out


# (channels, height) → a block of features (n, c, h, w)
CHANNELS_FIRST = {
    "convolutions": lambda c, h: Residual(
        nn.Conv2d(c, h, 1, bias=False), nn.BatchNorm2d(h), nn.Conv2d(h, c, 1, bias=False)
    ),
    "a norm first": lambda c, h: Residual(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1)),
    "an activation first": lambda c, h: Residual(nn.ReLU(), nn.Conv2d(c, c, 1)),
    "in groups": lambda c, h: Residual(nn.Conv2d(c, c, 3, 1, 1, groups=c), nn.GroupNorm(1, c)),
    "moved for a linear layer": lambda c, h: Residual(Permuted(nn.Linear(c, c), 0, 2, 3, 1)),
    "moved for a norm": lambda c, h: Residual(Permuted(nn.LayerNorm(c), 0, 2, 3, 1)),
    "factors": lambda c, h: Residual(Scaled(c, 1, 1), nn.Conv2d(c, c, 1)),
}
# The same of (n, h, w, c).
CHANNELS_LAST = {
    "a norm": lambda c, h: Residual(nn.LayerNorm(c), nn.Linear(c, h), nn.Linear(h, c)),
    "a linear layer": lambda c, h: Residual(nn.GELU(), nn.Linear(c, h), nn.Linear(h, c)),
    "windows": lambda c, h: Residual(Windows(nn.Linear(c, c))),
    "moved for a convolution": lambda c, h: Residual(Permuted(nn.Conv2d(c, c, 1), 0, 3, 1, 2)),
    "factors": lambda c, h: Residual(Scaled(c), nn.Linear(c, c)),
}
BLOCKS = [(make, 1) for make in CHANNELS_FIRST.values()]
BLOCKS += [(make, 3) for make in CHANNELS_LAST.values()]
SIZES = st.sampled_from([2, 4, 6])


@settings(max_examples=150)
@given(st.sampled_from(BLOCKS), SIZES, SIZES, SIZES, st.booleans())
def test_equal_sizes_do_not_decide(
    block: tuple, channels: int, height: int, width: int, strided: bool
) -> None:
    make, axis = block
    shape = (channels, height, width) if axis == 1 else (height, width, channels)
    x = torch.randn(3, *shape)
    x = x.to(memory_format=torch.channels_last) if strided else x
    model = nn.Sequential(make(channels, height)).eval()
    assert channel_axes(model, ["0"], x) == {"0": axis}


@given(SIZES, SIZES)
def test_norms_decide_where_layers_work_along_tokens_and_channels(tokens: int, width: int) -> None:
    mixer = Residual(nn.LayerNorm(width), MixedTokens(tokens), nn.Linear(width, width))
    affine = Residual(Scaled(1, 1, width), MixedTokens(tokens))
    model = nn.Sequential(mixer, affine).eval()
    assert channel_axes(model, ["0", "1"], torch.randn(2, tokens, width)) == {"0": 2, "1": 2}


class Both(nn.Module):
    """Linear layers along two dimensions, and no norm that says which holds the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.channels = MixedTokens(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.tokens(x) + self.channels(x)
        return out


class Averaged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + functional.avg_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize(
    ("block", "shape", "why"),
    [(Both(), (4, 4), r"dimensions \[1, 2\] alike"), (Averaged(), (4, 4, 4), "none")],
)
def test_what_cannot_be_known_is_refused(block: nn.Module, shape: tuple, why: str) -> None:
    with pytest.raises(BlockError, match=rf"block '0'.*{why}.*set replacement: identity"):
        channel_axes(nn.Sequential(block), ["0"], torch.randn(2, *shape))


@pytest.mark.parametrize(
    ("name", "size", "options", "axes"),
    [
        ("resnet26", 256, {}, {1}),  # (256, 64, 64), its inner width is 64
        ("mobilevit_xxs", 64, {}, {1, 2}),  # (16, 32, 32), its inner width is 32
        ("resnet18_cifar", 32, {"width": 16}, {1}),  # (16, 16, 16)
        ("mobilenetv2_cifar", 32, {}, {1}),
        ("tf_efficientnet_lite0", 64, {}, {1}),
        ("convnext_atto", 64, {}, {1}),
        ("poolformer_s12", 64, {}, {1}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32}, {2}),
        ("swin_tiny_patch4_window7_224", 56, {"img_size": 56}, {3}),
        ("tiny_vit_5m_224", 64, {}, {1, 3}),
        ("pvt_v2_b0", 64, {}, {2}),
    ],
)
def test_the_channels_of_each_family(name: str, size: int, options: dict, axes: set) -> None:
    model = create(name, 10, **options).eval()
    x = torch.randn(1, 3, size, size)
    blocks = [unit for unit in block_units(model, x) if unit.removable]
    found = channel_axes(model, [unit.name for unit in blocks], x)
    assert set(found) == {unit.name for unit in blocks}
    assert set(found.values()) == axes


def test_the_channels_of_a_unit_of_several_modules() -> None:
    model = create("mobilenetv2_cifar", 10).eval()
    x = torch.randn(2, 3, 32, 32)
    units = [unit.name for unit in depthwise_units(model, x) if unit.removable]
    assert units
    assert channel_axes(model, units, x) == dict.fromkeys(units, 1)


@pytest.mark.parametrize(("block", "shape"), [(1, (8, 4, 4)), (3, (4, 4, 8))])
def test_a_map_is_fitted_along_the_channels_where_an_inner_width_is_the_images(
    block: int, shape: tuple
) -> None:
    """Vectors of the block are 4 long, as its features are wide."""
    torch.manual_seed(0)
    layers = {1: lambda a, b: nn.Conv2d(a, b, 1), 3: nn.Linear}[block]
    model = nn.Sequential(Residual(layers(8, 4), layers(4, 4), layers(4, 8))).eval()
    images = [torch.randn(16, *shape) for _ in range(2)]
    x = torch.randn(5, *shape)
    exact = bypass(model, ["0"], fit(model, ["0"], "linear", images))
    torch.testing.assert_close(exact(x), model(x), rtol=1e-4, atol=1e-5)
