"""Find a network's blocks: its repeated structure, and one forward pass for the shapes.

A block is removable when it is called once, with one tensor in and one tensor out of the same
shape, so that the identity can stand in its place (LaCoOT, arXiv 2406.08933, section 3).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.errors import ShoalError


@dataclass(frozen=True)
class Block:
    """One block. Shapes are per image, without the batch dimension; empty where unknown."""

    name: str  # the module's dotted path
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    removable: bool
    reason: str  # why it cannot be removed; empty where it can


@dataclass(frozen=True)
class _Call:
    inputs: list[Tensor]
    outputs: list[Tensor]


def find_blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """Return the blocks of `model` in the order in which they run.

    Args:
        model: a network; timm's architectures describe their own blocks, for others the
            elements of `nn.Sequential` and `nn.ModuleList` are taken.
        example: input images (n, c, h, w) on the model's device.

    Raises:
        ShoalError: the network does not run on the example.
    """
    names = _innermost(_described_blocks(model) or _sequence_elements(model))
    calls = _record_calls(model, names, example)
    ordered = [*calls, *(name for name in names if name not in calls)]  # calls keep their order
    return [_judge(name, calls.get(name, [])) for name in ordered]


def _described_blocks(model: nn.Module) -> list[str]:
    """Read the blocks off timm's `group_matcher`: regular expressions over parameter names."""
    describe = getattr(model, "group_matcher", None)
    groups: Any = describe(coarse=False) if describe else None
    if not isinstance(groups, dict):
        return []
    patterns = [
        pattern for key, value in groups.items() if key != "stem" for pattern in _repeated(value)
    ]
    modules = dict(model.named_modules())
    found: dict[str, None] = {}
    for parameter, _ in model.named_parameters():
        for pattern in patterns:
            if match := pattern.match(parameter):
                name = parameter[: match.end()]
                if name in modules and any(modules[name].children()):
                    found[name] = None
    return list(found)


def _repeated(value: Any) -> Iterator[re.Pattern[str]]:
    """Yield the patterns that number their matches; a lone norm or head is no block."""
    for item in [value] if isinstance(value, str) else value:
        pattern = re.compile(item if isinstance(item, str) else item[0])
        if pattern.groups:
            yield pattern


def _sequence_elements(model: nn.Module) -> list[str]:
    """Return the composite elements of `nn.Sequential` and `nn.ModuleList`."""
    sequences = (nn.Sequential, nn.ModuleList)
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, sequences)
        for name, child in module.named_children()
        if any(child.children()) and not isinstance(child, sequences)
    ]


def _innermost(names: list[str]) -> list[str]:
    """Drop the names of modules that hold other named ones: a block has no blocks in it."""
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _record_calls(model: nn.Module, names: list[str], example: Tensor) -> dict[str, list[_Call]]:
    """Run the model once in evaluation mode and record what enters and leaves each block."""
    calls: dict[str, list[_Call]] = defaultdict(list)
    handles = [_watch(model.get_submodule(name), calls, name) for name in names]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise ShoalError(
            f"{type(model).__name__} does not run on images of shape {tuple(example.shape[1:])}: "
            f"{e}. Many architectures take an `img_size` option"
        ) from e
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return dict(calls)


def _watch(module: nn.Module, calls: dict[str, list[_Call]], name: str) -> RemovableHandle:
    def record(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls[name].append(_Call(_tensors([args, kwargs]), _tensors(output)))

    return module.register_forward_hook(record, with_kwargs=True)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, without their data."""
    if isinstance(value, Tensor):
        return [value.detach().to("meta")]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def _judge(name: str, calls: list[_Call]) -> Block:
    """Say whether a block can be removed, and if not, why."""
    if len(calls) != 1:
        return Block(name, (), (), False, f"called {len(calls)} times in a forward pass")
    inputs, outputs = calls[0].inputs, calls[0].outputs
    if len(inputs) != 1 or len(outputs) != 1:
        reason = f"{len(inputs)} tensors enter and {len(outputs)} leave"
        return Block(name, (), (), False, reason)
    in_shape, out_shape = tuple(inputs[0].shape[1:]), tuple(outputs[0].shape[1:])
    reason = "" if in_shape == out_shape else f"changes shape {in_shape} to {out_shape}"
    return Block(name, in_shape, out_shape, not reason, reason)
