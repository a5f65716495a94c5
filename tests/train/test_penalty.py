"""The penalty: its value, its gradient, and that training on it makes blocks identities."""

import pytest
import torch

from models.surgery import remove_blocks
from models.units import Unit, block_units
from models.zoo import create
from pipeline.distances.estimators import ESTIMATORS
from pipeline.distances.features import block_features
from pipeline.distances.projections import directions
from pipeline.distances.sliced import max_sliced_wasserstein
from pipeline.train.penalty import block_penalty


def network() -> tuple[torch.nn.Module, list[Unit]]:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    example = torch.zeros(2, 1, 32, 32)
    return model, [unit for unit in block_units(model, example) if unit.removable]


def test_value_is_the_mean_distance_over_the_blocks() -> None:
    model, units = network()
    x = torch.randn(13, 1, 32, 32)  # any batch size, a last partial batch included
    generator = torch.Generator().manual_seed(7)
    with block_penalty(model.eval(), units, ESTIMATORS["random"](20), generator) as penalty:
        model(x)
        value = penalty().item()
    generator = torch.Generator().manual_seed(7)
    shared: dict[int, torch.Tensor] = {}
    expected = []
    with block_features(model, units) as features:
        model(x)
        for a, b in features.values():
            d = a[0].numel()
            if d not in shared:
                shared[d] = directions(d, 20, generator=generator)
            expected.append(max_sliced_wasserstein(a, b, projections=shared[d]).item())
    assert value == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_directions_are_fresh_at_every_step_and_follow_the_seed() -> None:
    model, units = network()
    x = torch.randn(8, 1, 32, 32)

    def two_steps(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        with block_penalty(model.eval(), units, ESTIMATORS["random"](5), generator) as penalty:
            values = []
            for _ in range(2):
                model(x)
                values.append(penalty().item())
        return values

    first = two_steps(1)
    assert first[0] != first[1]
    assert two_steps(1) == first
    assert two_steps(2) != first


def test_descent_on_the_penalty_brings_input_and_output_together() -> None:
    model, units = network()
    x = torch.randn(32, 1, 32, 32)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    values = []
    with block_penalty(model.train(), units, ESTIMATORS["random"](50), generator) as penalty:
        for _ in range(80):
            model(x)
            loss = penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
    assert values[-1] < values[0] / 3


def test_blocks_removed_between_two_passes_no_longer_count() -> None:
    def value(model: torch.nn.Module, units: list[Unit], *, looked_at_first: bool) -> float:
        generator = torch.Generator().manual_seed(0)
        with block_penalty(model.eval(), units, ESTIMATORS["random"](5), generator) as penalty:
            if looked_at_first:  # as a strategy does, to choose what it removes
                model(torch.randn(7, 1, 32, 32))
            remove_blocks(model, [units[0].name])
            model(torch.ones(8, 1, 32, 32))
            return penalty().item()

    looked, plain = (value(*network(), looked_at_first=first) for first in (True, False))
    assert looked == plain
