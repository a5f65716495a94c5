"""What is captured at the blocks, and the statistics of it."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from models.units import Unit, block_units
from models.zoo import create
from pipeline.distances.features import block_features, measure_blocks
from pipeline.distances.projections import directions
from pipeline.distances.sliced import max_sliced_wasserstein


def whole(name: str) -> Unit:
    """A module against itself."""
    return Unit(
        name=name, in_shape=(), out_shape=(), removable=True, reason="", entering=name, leaving=name
    )


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_features_are_what_the_block_was_given_and_returned() -> None:
    model = nn.Sequential(Scale(2.0), Scale(-1.0))
    x = torch.randn(4, 3)
    with block_features(model, [whole("0"), whole("1")]) as features:
        model(x)
        assert features["0"][0] is x
        assert features["0"][1] is features["1"][0]  # one tensor, not a copy
        torch.testing.assert_close(features["1"][1], -2 * x)
    features.clear()
    model(x)
    assert not features  # no hook stays behind


def test_a_pair_may_begin_and_end_in_different_modules() -> None:
    model = nn.Sequential(Scale(2.0), Scale(3.0), Scale(5.0))
    unit = dataclasses.replace(whole("0+1"), entering="0", leaving="1")
    x = torch.randn(4, 3)
    with block_features(model, [unit]) as features:
        model(x)
    entered, left = features["0+1"]
    assert entered is x
    torch.testing.assert_close(left, 6 * x)


def test_statistics_are_those_of_the_whole_set_however_it_is_batched() -> None:
    model = create("resnet18_cifar", 10, in_chans=1, width=8).eval()
    images = torch.randn(30, 1, 32, 32)
    units = [unit for unit in block_units(model, images) if unit.removable]
    at_once = measure_blocks(model, units, [images], n_projections=16, seed=0)
    parts = measure_blocks(model, units, images.split(7), n_projections=16, seed=0)
    assert list(parts) == [unit.name for unit in units]
    for name, measured in parts.items():
        assert measured.msw == pytest.approx(at_once[name].msw, rel=1e-4)
        assert measured.displacement == pytest.approx(at_once[name].displacement, rel=1e-4)


def test_statistics_agree_with_a_direct_computation() -> None:
    model = nn.Sequential(nn.Sequential(Scale(1.5)))
    x = torch.randn(50, 12)
    measured = measure_blocks(model, [whole("0")], x.split(20), n_projections=30, seed=4)["0"]
    theta = directions(12, 30, generator=torch.Generator().manual_seed(4))
    direct = max_sliced_wasserstein(x, 1.5 * x, projections=theta).item()
    assert measured.msw == pytest.approx(direct, rel=1e-5)
    assert measured.displacement == pytest.approx(0.5, rel=1e-5)
    assert measured.cosine == pytest.approx(1.0)


def test_the_guards_see_what_equal_laws_hide() -> None:
    """Mirrored white noise has the same law: no distance, but far from the identity."""
    model = nn.Sequential(Scale(-1.0))
    x = torch.randn(500, 2)
    x = torch.cat([x, -x])
    measured = measure_blocks(model, [whole("0")], [x], n_projections=20, seed=0)["0"]
    assert measured.msw == pytest.approx(0, abs=1e-6)
    assert measured.displacement == pytest.approx(2, rel=1e-5)
    assert measured.cosine == pytest.approx(-1, rel=1e-5)
