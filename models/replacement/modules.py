"""What may stand in for a removed block: the identity, or a map of the channels alone.

The maps get richer from one to the next: x + b, a ⊙ x + b, W x + b, the same at every position.
The last is the linear replacement of TOAST (arXiv 2410.04941) and ReplaceMe (arXiv 2505.02819).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from models.errors import ArtifactError
from models.saving import load_tensors, save_tensors
from models.surgery import module_paths


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
        """Map the channels of `x` (n, ...); whatever else a block is given is left alone."""
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


def channel_axis(block: nn.Module, shape: torch.Size) -> int:
    """Return the dimension of the channels of a block's features of that shape (n, ...).

    Vectors among the block's weights (norms, biases) are as long as there are channels; where they
    do not tell, channels come second in images and last in sequences.
    """
    ndim = len(shape)
    lengths = [len(p) for p in block.parameters() if p.ndim == 1]
    second, last = (lengths.count(shape[axis]) for axis in (1, ndim - 1))
    if second != last:
        return 1 if second > last else ndim - 1
    return 1 if ndim == 4 else ndim - 1


def maps_in(network: nn.Module, names: Iterable[str]) -> dict[str, ChannelMap]:
    """Return the maps that stand in for blocks of a network, by the block's name.

    Args:
        network: with blocks taken out.
        names: those blocks; the ones that the identity stands in for are left out.
    """
    places = {name: network.get_submodule(module_paths(name)[0]) for name in names}
    return {name: found for name, found in places.items() if isinstance(found, ChannelMap)}


def blank_maps(axes: Mapping[str, int], state: Mapping[str, Tensor]) -> dict[str, ChannelMap]:
    """Return maps of zeros, of the form that they have in a network's state.

    Args:
        axes: the dimension of the channels, by the block's name.
        state: what the network with its maps is to be loaded from.

    Raises:
        KeyError: the state has no map in the place of a block.
    """
    maps = {}
    for name, axis in axes.items():
        place = module_paths(name)[0]
        weight, bias = state.get(f"{place}.weight"), state[f"{place}.bias"]
        zeros = None if weight is None else torch.zeros_like(weight)
        maps[name] = ChannelMap(zeros, torch.zeros_like(bias), axis)
    return maps


def save(stand_ins: Mapping[str, ChannelMap], path: Path) -> None:
    """Write the maps that stand in for blocks, by name; at least one."""
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, stand_in in stand_ins.items()
        for key, value in stand_in.state_dict().items()
    }
    axes = {name: stand_in.axis for name, stand_in in stand_ins.items()}
    save_tensors(tensors, path, metadata={"axes": json.dumps(axes)})


def load(path: Path) -> dict[str, ChannelMap]:
    """Return what `save` wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        tensors, described = load_tensors(path)
        axes = json.loads(described["axes"])
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as e:
        raise ArtifactError(f"{path} is damaged ({e}); delete it and run `dvc repro`") from e
    return {
        name: ChannelMap(tensors.get(f"{name}.weight"), tensors[f"{name}.bias"], axis)
        for name, axis in axes.items()
    }
