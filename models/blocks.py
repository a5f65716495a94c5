"""Find a network's blocks by what one forward pass shows, whatever the architecture.

A block is what lies between two skip connections (LaCoOT, arXiv 2406.08933, section 3): a module
through which a path runs from input to output that only adds. A stage has such a path too, so a
module that holds blocks in a list is searched and not counted. A module without a skip connection
counts where it takes the role of a block (the first of a stage, which changes the shape), or where
the network has none at all (Inception, VGG). timm's `group_matcher` distinguishes stems and
downsampling layers from blocks where the structure does not.

A block is removable when the identity can replace it: it is called once and returns one tensor, of
the shape of its first argument; other arguments may depend on the images only where the skip
connection shows that the first is the one that is passed on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.calls import Call, Calls, record_calls
from models.replacement.modules import ChannelMap

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """One block. Shapes are per image, without the batch dimension; empty where unknown."""

    name: str  # the module's dotted path
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    removable: bool
    reason: str  # why it cannot be removed; empty where it can


def find_blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """Return the blocks of `model` in the order in which they run.

    Args:
        model: a network.
        example: input images (n, c, h, w) on the model's device, of a size that suits it.

    Raises:
        ShoalError: the network does not run on the example.
    """
    calls = record_calls(model, example)
    names = _block_names(model, calls) or _weighted_layers(model)
    order = [*calls, *names]  # as they run; those never called come last
    blocks = [n for n in names if not isinstance(model.get_submodule(n), ChannelMap)]
    return [_judge(name, calls.get(name, [])) for name in sorted(blocks, key=order.index)]


def _block_names(model: nn.Module, calls: Calls) -> list[str]:
    """Return the modules with a skip connection, and those with the role of such a block."""
    modules = dict(model.named_modules())
    residual = {n for n, seen in calls.items() if seen[0].skips and _is_composite(modules[n])}
    roles = _roles(model)
    outermost = _outermost(modules, residual, roles)
    allowed = [n for n in outermost if roles.get(n, "") in {"block", ""}]
    stems = [n for n in outermost if roles.get(n) == "stem" and _is_listed(n, modules)]
    blocks = [n for n in [*allowed, *stems] if n in residual]
    # Without any skip connection, what keeps the shape shows what a block is.
    ends = {n: (seen[0].inputs, seen[0].outputs) for n, seen in calls.items()}
    keep = {n for n, (inputs, outputs) in ends.items() if len(inputs) == 1 and inputs == outputs}
    alike = {type(modules[n]) for n in blocks or allowed if n in residual | keep} - set(LISTS)
    return blocks + [
        n
        for n in allowed
        if n not in residual and (type(modules[n]) in alike or roles.get(n) == "block")
    ]


def _is_composite(module: nn.Module) -> bool:
    """Say whether a module has modules in it, and weights; pooling is no block."""
    return bool(module._modules) and any(True for _ in module.parameters())


def _outermost(
    modules: dict[str, nn.Module], residual: set[str], roles: dict[str, str]
) -> list[str]:
    """Return the outermost composite modules that are no stages, in the network's order."""
    stages = _stages(modules, residual, roles)
    return [
        name
        for name, module in modules.items()
        if name not in stages and _is_composite(module) and set(_above(name)) <= stages
    ]


def _stages(modules: dict[str, nn.Module], residual: set[str], roles: dict[str, str]) -> set[str]:
    """Return the modules that are made of blocks, the network itself (``""``) among them."""
    blocks = [name for name in residual if _is_listed(name, modules)]
    blocks += [name for name, role in roles.items() if role == "block"]
    stages = {parent for name in blocks for parent in _above(name)} | {""}
    kinds_of_stage = {type(modules[name]) for name in stages}
    kinds_of_block = {type(modules[name]) for name in residual - stages}
    # A block in no list shows a stage too (the trees of DLA), unless what holds it is elsewhere a
    # block itself (RepViT, where a scale interrupts the skip connection of some).
    stages |= {
        parent
        for name in residual - stages
        for parent in _above(name)
        if parent not in residual and type(modules[parent]) not in kinds_of_block
    }
    for name, module in modules.items():
        if isinstance(module, LISTS):
            if any(_is_composite(child) for child in module.children()):
                stages.add(name)
        elif type(module) in kinds_of_stage - kinds_of_block and name not in residual:
            stages.add(name)  # a stage all of whose blocks change the shape
    return stages


def _above(name: str) -> list[str]:
    """Return the paths of the modules that hold a module, the outermost (``""``) first."""
    return ["", *(name[: dot.start()] for dot in re.finditer(r"\.", name))]


def _is_listed(name: str, modules: dict[str, nn.Module]) -> bool:
    return bool(name) and isinstance(modules[_above(name)[-1]], LISTS)


def _weighted_layers(model: nn.Module) -> list[str]:
    """Return the layers with weights in a list: the blocks of a network that has no others."""
    modules = dict(model.named_modules())
    return [
        name
        for name, module in modules.items()
        if _is_listed(name, modules) and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]


def _roles(model: nn.Module) -> dict[str, str]:
    """Read off timm's `group_matcher` what a module is: ``block``, ``stem`` or ``other``.

    It gives regular expressions over parameter names, the first that matches counts; those of
    blocks number their matches and have no rank of their own. A module below a match is ``""``
    (it may be a block, a stage was matched), above one it has no role.
    """
    describe = getattr(model, "group_matcher", None)
    groups: Any = describe(coarse=False) if describe else None
    if not isinstance(groups, dict):
        return {}
    patterns = list(_patterns(groups))
    roles: dict[str, str] = {}
    for parameter, _ in model.named_parameters():
        found = ((p.match(parameter), role) for p, role in patterns)
        match, role = next(((m, role) for m, role in found if m), (None, "other"))
        for dot in re.finditer(r"\.", parameter):
            name = parameter[: dot.start()]
            exact = match is not None and match.end() == len(name)
            above = match is not None and match.end() > len(name)
            if not above:
                roles.setdefault(name, role if role != "block" or exact else "")
    return roles


def _patterns(groups: dict[str, Any]) -> Iterator[tuple[re.Pattern[str], str]]:
    for key, value in groups.items():
        for item in [value] if isinstance(value, str) else value:
            pattern, rank = (item, None) if isinstance(item, str) else item
            compiled = re.compile(pattern)
            numbered = compiled.groups > 0 and rank is None
            yield compiled, "stem" if key.startswith("stem") else "block" if numbered else "other"


def _judge(name: str, calls: list[Call]) -> Block:
    """Say whether a block can be removed, and if not, why."""
    if len(calls) != 1:
        return Block(name, (), (), False, f"called {len(calls)} times in a forward pass")
    inputs, outputs = calls[0].inputs, calls[0].outputs
    one_in = len(inputs) == 1 or calls[0].skips  # the skipped input is what is passed on
    if not one_in or len(outputs) != 1:
        reason = f"{len(inputs)} tensors enter and {len(outputs)} leave"
        return Block(name, (), (), False, reason)
    in_shape, out_shape = tuple(inputs[0][1:]), tuple(outputs[0][1:])
    reason = calls[0].oddity
    if inputs[0] != outputs[0]:
        reason = f"changes shape {in_shape} to {out_shape}"
    return Block(name, in_shape, out_shape, not reason, reason)
