"""What may replace a removed block: the identity, or a map of the channels alone.

The maps get richer from one to the next: x + b, a ⊙ x + b, W x + b, the same at every position.
The last is the linear replacement of TOAST (arXiv 2410.04941) and ReplaceMe (arXiv 2505.02819).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.surgery import module_paths
from models.weights.saving import load_tensors, save_tensors


class ChannelMap(nn.Module):
    """An affine map of the channels, alike at every position.

    Args:
        weight: factors (c,), a matrix (c, c), or None for factors of one.
        bias: (c,).
        axis: the dimension of the channels, 1 or the last.
    """

    def __init__(
        self, weight: Float[Tensor, " c"] | Float[Tensor, "c c"] | None, bias: Tensor, axis: int
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.axis = axis

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        """Map the channels of `x` (n, ...); other arguments are ignored."""
        if self.weight is None:
            return x + self._along_axis(self.bias, x)
        if self.weight.ndim == 1:
            return x * self._along_axis(self.weight, x) + self._along_axis(self.bias, x)
        if self.axis == 1 and x.ndim == 4:
            return functional.conv2d(x, self.weight[:, :, None, None], self.bias)
        mapped = functional.linear(x.movedim(self.axis, -1), self.weight, self.bias)
        return mapped.movedim(-1, self.axis)

    def _along_axis(self, values: Tensor, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return values.reshape(shape)


def maps_in(network: nn.Module, names: Iterable[str]) -> dict[str, ChannelMap]:
    """Return the maps that replace the removed blocks `names`, where the identity does not."""
    found = {name: network.get_submodule(module_paths(name)[0]) for name in names}
    return {name: module for name, module in found.items() if isinstance(module, ChannelMap)}


def blank_maps(axes: Mapping[str, int], state: Mapping[str, Tensor]) -> dict[str, ChannelMap]:
    """Return maps of zeros for blocks, given their axes, of the shapes that a state has for them.

    Raises:
        KeyError: the state has no map for a block.
    """
    maps = {}
    for name, axis in axes.items():
        path = module_paths(name)[0]
        weight, bias = state.get(f"{path}.weight"), state[f"{path}.bias"]
        zeros = None if weight is None else torch.zeros_like(weight)
        maps[name] = ChannelMap(zeros, torch.zeros_like(bias), axis)
    return maps


def save(replacements: Mapping[str, ChannelMap], path: Path) -> None:
    """Write the maps that replace blocks, by name; at least one."""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, replacement in replacements.items()
        for key, value in replacement.state_dict().items()
    }
    axes = {name: replacement.axis for name, replacement in replacements.items()}
    save_tensors(tensors, path, metadata={"axes": json.dumps(axes)})


def load(path: Path) -> dict[str, ChannelMap]:
    """Return what `save` wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    tensors, described = load_tensors(path)  # whole, as `save` wrote them
    return {
        name: ChannelMap(tensors.get(f"{name}.weight"), tensors[f"{name}.bias"], axis)
        for name, axis in json.loads(described["axes"]).items()
    }
