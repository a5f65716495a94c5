"""What one forward pass shows of a network's modules: the tensors that enter and leave each.

Only tensors that depend on the images count: those to which autograd would send a gradient from
the output, the weights being frozen. Position codes, masks and sizes do not.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ShoalError
from models.hooks import hooked

ADDITIONS = {"AddBackward0", "SubBackward0"}  # autograd's names of what a skip connection may pass


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes, batch included, of the tensors in and out that count."""

    inputs: list[torch.Size]
    outputs: list[torch.Size]
    oddity: str  # why the identity cannot take its arguments or give its result; empty if it can
    skips: bool  # a skip connection runs from the first tensor in to the first out


Calls = dict[str, list[Call]]  # by module path, in the order in which the modules finish


def record_calls(model: nn.Module, example: Tensor) -> Calls:
    """Run the model once in evaluation mode and record every call of every module below it.

    Raises:
        ShoalError: the network does not run on the example.
    """
    calls: Calls = defaultdict(list)
    with evaluating(model), _frozen(model), _recorded(model, calls), torch.enable_grad():
        try:
            model(example.detach().requires_grad_().clone())  # no leaf: it may be changed in place
        except (RuntimeError, AssertionError, ValueError) as e:
            raise ShoalError(
                f"{type(model).__name__} does not run on images of shape "
                f"{tuple(example.shape[1:])}: {e}. Many architectures take an `img_size` option"
            ) from e
    return dict(calls)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode; afterwards every module is in the mode that it was in."""
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights; afterwards those are trained that were before."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _recorded(model: nn.Module, calls: Calls) -> Iterator[None]:
    """Record every call of every module below the model's own."""
    entered: dict[str, list[tuple[list[Tensor], Any, Any]]] = defaultdict(list)

    def enter(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = _activations([args, kwargs])
        # What `x` came from is noted now: the module may change it in place.
        entered[name].append((inputs, args, inputs[0].grad_fn if inputs else None))

    def leave(name: str, _: nn.Module, __: Any, output: Any) -> None:
        calls[name].append(_call(*entered[name].pop(), output))

    below = [name for name, _ in model.named_modules() if name]
    with hooked(model, below, on_enter=enter, on_leave=leave):
        yield


def _call(inputs: list[Tensor], args: Any, source: Any, output: Any) -> Call:
    outputs = _activations(output)
    oddity = ""
    if not (inputs and args and args[0] is inputs[0]):
        oddity = "the activation is not its first argument"
    elif not isinstance(output, Tensor):
        oddity = f"returns a {type(output).__name__}"
    skips = bool(inputs and outputs) and inputs[0].shape == outputs[0].shape
    skips = skips and _skips(outputs[0], source)
    return Call([t.shape for t in inputs], [t.shape for t in outputs], oddity, skips)


def _activations(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts that depend on the images."""
    if isinstance(value, Tensor):
        return [value] if value.requires_grad else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _activations(v)] if isinstance(value, list | tuple) else []


def _skips(output: Tensor, source: Any) -> bool:
    """Say whether autograd's graph has a path from `source` to `output` that only adds.

    It may also pass nodes of one argument (activations, changes of layout). Whatever has weights,
    or multiplies, takes more arguments than one.
    """
    seen, waiting = set(), [output.grad_fn] if output.grad_fn is not source else []
    while waiting:
        node = waiting.pop()
        if node is source:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            parents = [parent for parent, _ in node.next_functions]
            if len(parents) == 1 or node.name() in ADDITIONS:
                waiting.extend(parents)
    return False
