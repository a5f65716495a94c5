"""Hooks at blocks: they see and replace what passes, and are removed afterwards, errors or not."""

import pytest
import torch
from torch import Tensor, nn

from models.errors import BlockError
from models.hooks import hooked, paired, run_to_end, run_to_start, watched

X = torch.ones(1, 2)


class Add(nn.Module):
    def __init__(self, n: float) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor, *, factor: float = 1) -> Tensor:
        return (x + self.n) * factor


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Add(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x=x, factor=2)


def chain() -> nn.Sequential:
    return nn.Sequential(Add(1), Add(10), Add(100))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_ends_of_single_joint_and_mapped_blocks_are_paired() -> None:
    seen = {}
    for blocks in (["0", "1+2"], {"0": ("0", "0"), "1+2": ("1", "2")}):
        model = chain()
        with paired(model, blocks, lambda name, x, y: seen.update({name: (x[0, 0], y[0, 0])})):
            model(X)
        assert seen == {"0": (1, 2), "1+2": (2, 112)}
        assert hooks(model) == 0


def test_what_a_function_returns_replaces_the_tensor() -> None:
    model = chain()
    with watched(model, ["1"], on_enter=lambda _, x: 0 * x, on_leave=lambda _, y: y + 0.5):
        assert model(X)[0, 0] == 110.5
    assert model(X)[0, 0] == 112


def test_an_argument_by_keyword_is_seen_and_replaced() -> None:
    model = Keywords()
    with watched(model, ["inner"], on_enter=lambda _, x: x + 1):
        assert model(X)[0, 0] == 6
    calls = []
    with hooked(model, ["inner"], on_enter=lambda *call: calls.append(call)):
        model(X)
    [(name, module, args, kwargs)] = calls
    assert (name, module, args) == ("inner", model.inner, ())
    assert list(kwargs) == ["x", "factor"]


def test_hooks_are_removed_when_something_fails() -> None:
    model = chain()
    with pytest.raises(AttributeError), watched(model, ["0", "none"], on_enter=lambda *_: None):
        pass
    assert hooks(model) == 0

    def fail(*_: object) -> None:
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed"), paired(model, ["0"], fail):
        model(X)
    assert hooks(model) == 0


def test_the_network_runs_no_further_than_asked() -> None:
    model = chain()
    model[2].forward = None  # calling it would fail
    assert run_to_start(model, "2", X)[0, 0] == 12
    assert run_to_end(model, "0+1", X)[0, 0] == 12
    assert hooks(model) == 0
    with pytest.raises(BlockError, match="block 'inner' is not called"):
        run_to_start(Unused(), "inner", X)


class Unused(Keywords):
    def forward(self, x: Tensor) -> Tensor:
        return x
