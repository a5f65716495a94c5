"""Remove blocks from a PyTorch network."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from models.errors import BlockError, near_matches


class Bypass(nn.Module):
    """The identity in place of a block: returns its first argument, whatever else it is given."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return `x` unchanged."""
        return x


def bypass(
    model: nn.Module, names: Iterable[str], replacements: Mapping[str, nn.Module] | None = None
) -> nn.Module:
    """Return a copy of `model` with the named blocks replaced, by the identity without more.

    Args:
        model: a network; it is left as it is.
        names: dotted module paths, as `find_blocks` gives them, or names of units.
        replacements: modules to use instead of the identity, by name; not copied.

    Raises:
        BlockError: there is no module of that name; the message has near matches.
    """
    shallow = copy.deepcopy(model)
    remove_blocks(shallow, names, replacements)
    return shallow


def remove_blocks(
    model: nn.Module, names: Iterable[str], replacements: Mapping[str, nn.Module] | None = None
) -> None:
    """Do to `model` itself what `bypass` does to a copy; arguments and errors are the same."""
    modules = dict(model.named_modules())
    for name in names:
        first, *others = module_paths(name)
        for path in (first, *others):
            if not path or path not in modules:
                raise BlockError(f"no block {name!r} in the network{near_matches(name, modules)}")
            model.set_submodule(path, Bypass())
        if replacements and name in replacements:
            model.set_submodule(first, replacements[name])


def restore(shallow: nn.Module, model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Undo `bypass`: return a copy of `shallow` with blocks of `model` in their places again.

    What else has changed in `shallow` since, such as weights, is kept.
    """
    whole = copy.deepcopy(shallow)
    for name in names:
        for path in module_paths(name):
            whole.set_submodule(path, copy.deepcopy(model.get_submodule(path)))
    return whole


@contextmanager
def bypassed(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let `model` itself run without the named blocks, which are back afterwards as they were.

    Raises:
        BlockError: as `bypass`.
    """
    names = list(names)
    modules = dict(model.named_modules())
    try:
        remove_blocks(model, names)
        yield
    finally:
        for path in (path for name in names for path in module_paths(name)):
            if path in modules:
                model.set_submodule(path, modules[path])


def module_paths(name: str) -> list[str]:
    """Return the dotted paths of the modules that a name means.

    It may mean several children of one module: "a.conv+norm" is a.conv and a.norm.
    """
    first, *others = name.split("+")
    parent, dot, _ = first.rpartition(".")
    return [first, *(f"{parent}{dot}{other}" for other in others)]


def joint_name(paths: Sequence[str]) -> str:
    """Return the one name of several children of one module: the inverse of `module_paths`."""
    first, *others = paths
    return "+".join([first, *(path.rpartition(".")[2] for path in others)])
