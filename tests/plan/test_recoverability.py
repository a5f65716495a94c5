"""Which blocks a network recovers from losing: sets, what explains their losses, and the whole."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from trainings import assert_same_weights, fresh

from models.errors import ShoalError
from models.surgery import bypass
from pipeline.plan.scoring.recoverability import (
    balanced_subsets,
    batch_statistics,
    losses_without,
    marginal_losses,
    recoverability,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [unit.name for unit in fresh()[1]]


@given(st.integers(1, 9), st.data(), st.integers(0, 2**20))
def test_every_block_is_missing_equally_often(count: int, data: st.DataObject, seed: int) -> None:
    names = [f"b{i}" for i in range(count)]
    size = data.draw(st.integers(1, count))
    subsets = balanced_subsets(names, size, seed, rounds=2)
    assert {len(set(subset)) for subset in subsets} == {size}
    missing = [sum(name in subset for subset in subsets) for name in names]
    assert missing == [2 * size] * count
    assert subsets == balanced_subsets(names, size, seed, rounds=2)


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=7), st.floats(-5, 5), st.integers(0, 99))
def test_losses_that_add_up_are_separated(values: list[float], constant: float, seed: int) -> None:
    names = [f"b{i}" for i in range(len(values))]
    worth = dict(zip(names, values, strict=True))
    subsets = balanced_subsets(names, (len(names) + 1) // 2, seed)
    missing = np.array([[name in subset for name in names] for subset in subsets])
    assume(np.linalg.matrix_rank(missing) == len(names))  # else chance made the rings alike
    losses = [constant + sum(worth[name] for name in subset) for subset in subsets]
    found = marginal_losses(names, subsets, losses)
    shift = found[names[0]] - worth[names[0]]  # part of the constant
    assert [found[n] - shift for n in names] == pytest.approx(values, abs=1e-6)


def batches(seed: int, count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(32, 1, 32, 32, generator=generator),
            torch.randint(10, (32,), generator=generator),
        )
        for _ in range(count)
    ]


def test_losses_are_those_of_networks_without_the_blocks() -> None:
    model, _ = fresh()
    before = copy.deepcopy(model)
    held_out = batches(0)
    subsets = [NAMES[:2], [], NAMES]
    found = losses_without(model, subsets, held_out)
    for subset, loss in zip(subsets, found, strict=True):
        shallow = bypass(before, subset).train()  # batch norm by the batch; no dropout there is
        with torch.no_grad():
            own = [cross_entropy(shallow(x), y).item() for x, y in held_out]
        assert loss == pytest.approx(sum(own) / len(own), rel=1e-5)
    assert_same_weights(model, before)
    assert model.training == before.training


def test_batch_statistics_come_from_the_batch_and_leave_no_trace() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.BatchNorm1d(3))
    model[0].eval()
    x = 5 + torch.randn(64, 3)
    before = copy.deepcopy(model.state_dict())
    with batch_statistics(model):
        y = model(x)
        torch.testing.assert_close(y.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [False, True, True]


class Scales(nn.Module):
    """Mixes nothing, so no training can make it replace another block."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Vital(nn.Module):
    """Copies the sign to where the head reads: without it the head has no information."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] + x[:, 1], x[:, 1]], dim=1)


def test_what_cannot_be_recovered_from_is_found() -> None:
    torch.manual_seed(0)
    head = nn.Linear(2, 2)
    head.weight.data = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])
    head.weight.requires_grad_(False)  # it never learns to read elsewhere

    blocks = {"idle": Scales(), "vital": Vital(), "other": Scales()}
    model = nn.Sequential(OrderedDict(blocks | {"head": head}))
    signs = torch.randint(2, (20, 64)) * 2.0 - 1
    data = [(torch.stack([0 * s, s], dim=1), (s < 0).long()) for s in signs]
    options = {"size": 1, "learning_rate": 0.05, "seed": 0}
    values = recoverability(model, list(blocks), data[:16], data[16:], **options)
    assert max(values, key=lambda name: values[name]) == "vital"
    assert values["vital"] - max(values["idle"], values["other"]) > 0.3


def test_a_training_that_diverged_is_an_error() -> None:
    model = nn.Sequential(OrderedDict(a=Scales(), b=Scales(), head=nn.Linear(2, 2)))
    learned = [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))] * 8
    options = {"size": 1, "learning_rate": 1e30, "seed": 0}
    with pytest.raises(
        ShoalError, match=r"not finite; lower score\.recovery_learning_rate \(now 1e"
    ):
        recoverability(model, ["a", "b"], learned, learned[:1], **options)
