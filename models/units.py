"""What can be removed of a network as one unit, and the pair of tensors compared for it.

LaCoOT (arXiv 2406.08933, section 3) compares a block's input with its output. The authors' public
code compares other pairs where the architecture asks for it. Every rule here reads the structure
of the network and one forward pass; none knows an architecture by name.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from models.blocks import Block, find_blocks
from models.calls import evaluating
from models.hooks import paired
from models.surgery import joint_name


@dataclass(frozen=True, kw_only=True)
class Unit(Block):
    """A block or a part of one. `name` is a module's path, or several siblings': "a.conv+norm"."""

    entering: str  # the module whose input is compared
    leaving: str  # the module with whose output it is compared


def block_units(model: nn.Module, example: Tensor) -> list[Unit]:
    """Return the blocks, each with its input against its own output, as in the paper.

    Arguments and errors are those of `find_blocks`, here and below.
    """
    return [_unit(block) for block in find_blocks(model, example)]


def later_block_units(model: nn.Module, example: Tensor) -> list[Unit]:
    """Return the blocks, the first of every stage kept: the authors' choice for ResNet.

    A stage is what holds the block.
    """
    stages: set[str] = set()
    units = []
    for block in find_blocks(model, example):
        stage = block.name.rpartition(".")[0]
        units.append(_unit(block, "" if stage in stages else "is the first block of its stage"))
        stages.add(stage)
    return units


def mlp_branch_units(model: nn.Module, example: Tensor) -> list[Unit]:
    """Return the blocks, each with its input against the raw output of the MLP that ends it.

    The authors' pair for Swin: the output is taken before it is added to the residual, so at
    distance zero the block is no identity.
    """
    blocks = find_blocks(model, example)
    children = [
        f"{block.name}.{name}"
        for block in blocks
        for name, child in model.get_submodule(block.name).named_children()
        if _matrices(child)
    ]
    last = {_parent(call.path): call for call in _record_calls(model, children, example)}
    return [_mlp_branch_unit(model, block, last.get(block.name)) for block in blocks]


def depthwise_units(model: nn.Module, example: Tensor) -> list[Unit]:
    """Return the depthwise convolutions, each with the norm and activation that follow it.

    The authors' unit for MobileNetV2: its input against its output, inside a block that widens
    its input first (an inverted residual).
    """
    blocks = find_blocks(model, example)
    modules = dict(model.named_modules())
    convolutions = [path for path, module in modules.items() if _is_depthwise(module)]
    parents = {_parent(path) for path in convolutions}
    siblings = [path for path in modules if path and _parent(path) in parents]
    calls = _record_calls(model, siblings, example)
    counts = Counter(call.path for call in calls)
    units = []
    for path in dict.fromkeys([*(c.path for c in calls if c.path in convolutions), *convolutions]):
        if counts[path] == 1:
            units.append(_depthwise_unit(_chain(path, calls, modules), blocks, modules))
        else:
            reason = f"called {counts[path]} times in a forward pass"
            units.append(_unit(Block(path, (), (), False, reason)))
    return units


UNITS: dict[str, Callable[[nn.Module, Tensor], list[Unit]]] = {
    "block": block_units,
    "later_block": later_block_units,
    "mlp_branch": mlp_branch_units,
    "depthwise": depthwise_units,
}


def _unit(block: Block, reason: str = "", *, entering: str = "", leaving: str = "") -> Unit:
    """Return `block` as a unit, not removable for `reason` unless it has one of its own."""
    why = {"reason": block.reason or reason, "removable": not (block.reason or reason)}
    ends = {"entering": entering or block.name, "leaving": leaving or block.name}
    return Unit(**vars(block) | why | ends)


@dataclass(frozen=True)
class _Call:
    path: str
    entered: Tensor | None  # the first argument and the result, where they are tensors
    left: Tensor | None


def _record_calls(model: nn.Module, paths: Iterable[str], example: Tensor) -> list[_Call]:
    """Run the model once in evaluation mode; return the calls of these modules as they ended.

    The tensors are kept alive, so that `is` shows which module reads what another made.
    """
    calls: list[_Call] = []

    def record(path: str, *ends: Any) -> None:
        entered, left = (t if isinstance(t, Tensor) else None for t in ends)
        calls.append(_Call(path, entered, left))

    with torch.no_grad(), evaluating(model), paired(model, paths, record):
        model(example)
    return calls


def _mlp_branch_unit(model: nn.Module, block: Block, last: _Call | None) -> Unit:
    """Pair a block's input with the output of the last module with weights that it runs."""
    if last is None or last.left is None or not _is_mlp(model.get_submodule(last.path)):
        return _unit(block, "does not end in an MLP")
    shape = tuple(last.left.shape[1:])
    fits = math.prod(shape) == math.prod(block.in_shape)
    reason = "" if fits else f"compares an input {block.in_shape} with an MLP's output {shape}"
    return _unit(block, reason, leaving=last.path)


def _is_mlp(module: nn.Module) -> bool:
    """Say whether the module widens each position by itself and then returns to its width."""
    weights = _matrices(module)
    if len(weights) < 2:
        return False
    first, last = weights[0], weights[-1]
    pointwise = all(math.prod(shape[2:]) == 1 for shape in (first, last))
    return pointwise and first[0] > first[1] and last[0] == first[1]


def _matrices(module: nn.Module) -> list[torch.Size]:
    """Return the shapes (out, in, ...) of the weights, without norms and biases."""
    return [p.shape for p in module.parameters() if p.ndim >= 2]


def _is_depthwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    return module.groups == module.in_channels == module.out_channels > 1


def _chain(path: str, calls: Sequence[_Call], modules: Mapping[str, nn.Module]) -> list[_Call]:
    """Return the call of a convolution and of the pointwise siblings that read it in turn."""
    start = next(i for i, call in enumerate(calls) if call.path == path)
    chain = [calls[start]]
    for call in calls[start + 1 :]:
        if _parent(call.path) == _parent(path) and call.entered is chain[-1].left:
            if _matrices(modules[call.path]) or call.left is None:
                break
            chain.append(call)
    while isinstance(modules[chain[-1].path], nn.Identity):
        chain.pop()
    return chain


def _depthwise_unit(
    chain: Sequence[_Call], blocks: Sequence[Block], modules: Mapping[str, nn.Module]
) -> Unit:
    """Say whether a convolution with what follows it can be removed, and if not, why."""
    paths = [call.path for call in chain]
    in_shape, out_shape = (
        () if t is None else tuple(t.shape[1:]) for t in (chain[0].entered, chain[-1].left)
    )
    block = next((b for b in blocks if paths[0].startswith(f"{b.name}.")), None)
    reason = ""
    if in_shape != out_shape:
        reason = f"changes shape {in_shape} to {out_shape}"
    elif not _has_norm_and_activation(modules[path] for path in paths[1:]):
        reason = "is not followed by a norm and an activation"
    elif block is None:
        reason = "is in no block"
    elif not block.in_shape or in_shape[0] <= block.in_shape[0]:
        reason = f"is in block {block.name}, which does not widen its input"
    whole = Block(_name(paths, modules), in_shape, out_shape, not reason, reason)
    return _unit(whole, entering=paths[0], leaving=paths[-1])


def _has_norm_and_activation(followers: Iterable[nn.Module]) -> bool:
    """A norm has parameters or running statistics; an activation is a leaf with neither."""
    parts = [part for follower in followers for part in follower.modules()]
    has_norm = any(part.state_dict() for part in parts)
    stateless = [part for part in parts if not part.state_dict() and not any(part.children())]
    has_activation = any(not isinstance(part, nn.Identity | _DropoutNd) for part in stateless)
    return has_norm and has_activation


def _name(paths: Sequence[str], modules: Mapping[str, nn.Module]) -> str:
    """Return the joint name of modules, or their parent's where they are all of it."""
    parent = _parent(paths[0])
    sequence = modules[parent]
    whole = isinstance(sequence, nn.Sequential) and len(sequence) == len(paths)
    return parent if whole and parent else joint_name(paths)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
