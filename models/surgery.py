"""Take blocks out of a PyTorch network."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from models.errors import BlockError, near_matches


class Bypass(nn.Module):
    """The identity in place of a block: returns its first argument, whatever else it is given."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return `x` unchanged."""
        return x


def bypass(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy of `model` with the named blocks replaced by the identity.

    Args:
        model: a network; it is left as it is.
        names: dotted module paths, as `find_blocks` gives them.

    Raises:
        BlockError: there is no module of that name; the message has near matches.
    """
    shallow = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules:
            raise BlockError(f"no block {name!r} in the network{near_matches(name, modules)}")
        shallow.set_submodule(name, Bypass())
    return shallow
