"""Bounds of a network's graph: every value of every run is within them, at every node."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dead_branches import network, random_branch
from torch import Tensor, fx, nn

from models.blocks import find_blocks
from models.zoo import create
from pipeline.block_bounds import _Bounding, marked_graph, observed_ranges
from pipeline.bounds import LARGEST, Bounds


class Keeping(fx.Interpreter):
    """Runs a graph and keeps what each node gave."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.kept: dict[str, object] = {}

    def run_node(self, n: fx.Node) -> object:
        self.kept[n.name] = result = super().run_node(n)
        return result


class KeepingBounds(_Bounding):
    def __init__(self, graph: fx.GraphModule, ranges: dict[str, Bounds]) -> None:
        super().__init__(graph, ranges)
        self.kept: dict[str, object] = {}

    def run_node(self, n: fx.Node) -> object:
        self.kept[n.name] = result = super().run_node(n)
        return result


@torch.no_grad()
def assert_within(graph: fx.GraphModule, ranges: dict[str, Bounds], images: Tensor) -> int:
    """Compare each value with its bounds; return of how many something was known."""
    bounding, running = KeepingBounds(graph, ranges), Keeping(graph)
    bounding.run(torch.zeros(()))
    running.run(images)
    told = 0
    for name, bounds in bounding.kept.items():
        value = running.kept[name]
        if isinstance(bounds, Bounds) and isinstance(value, Tensor):
            own = bounds.absolute()
            slack = 1e-6 * (1 + value.abs())
            assert (own.lower <= value + slack).all(), name
            assert (value - slack <= own.upper).all(), name
            told += bool(((own.lower > -LARGEST) | (own.upper < LARGEST)).any())
    return told


def images(size: int, scale: float) -> Tensor:
    return scale * torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3))


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.sampled_from([nn.ReLU, nn.ReLU6, nn.Identity]))
def test_values_of_random_branches_are_within_their_bounds(
    seed: int, before: type[nn.Module]
) -> None:
    model = network(random_branch(seed, 1 + seed % 3), before(), channels=2)
    graph = marked_graph(model, ["2"], images(7, 1.0))
    for scale in (1e-3, 1.0, 1e5):
        assert_within(graph, {}, images(7, scale))
    own = observed_ranges(graph, [images(7, 1.0)])
    assert_within(graph, own, images(7, 1.0))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18_cifar", {"width": 8}, 32),
        ("mobilenetv2_050", {}, 32),
        ("mobilenetv3_small_050", {}, 32),
        ("tf_efficientnet_lite0", {}, 32),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 32),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (2, 2)}, 56),
        ("convnext_atto", {}, 32),
    ],
)
def test_values_of_real_networks_are_within_their_bounds(
    name: str, options: dict, size: int
) -> None:
    torch.manual_seed(0)
    model = create(name, 10, **options).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.bias, -1, 1)
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.uniform_(norm.running_mean, -1, 1)
    blocks = [b.name for b in find_blocks(model, images(size, 1.0)) if b.removable]
    graph = marked_graph(model, blocks, images(size, 1.0))
    told = [assert_within(graph, {}, images(size, scale)) for scale in (1.0, 100.0)]
    assert told[0] > 0 or "Transformer" in type(model).__name__ or name == "convnext_atto"
    assert_within(graph, observed_ranges(graph, [images(size, 1.0)]), images(size, 1.0))
