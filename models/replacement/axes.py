"""Which dimension of a block's features holds the channels, read from the layers that take them in.

Sizes decide nothing: a feature map may be as wide as it has channels. What the block does with its
input does. It is followed through views, permutations and element-wise functions to the layers of
the block: convolutions, batch and group norms work along dimension 1, linear layers and layer norms
along the last, a vector of parameters along the one that it is not broadcast over.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import BlockError
from models.hooks import watched

MATRICES = {"conv1d": 1, "conv2d": 1, "conv3d": 1, "linear": -1}
VECTORS = {"batch_norm": 1, "group_norm": 1, "instance_norm": 1, "layer_norm": -1, "rms_norm": -1}
REORDERED = {"reshape", "flatten", "unflatten"}  # what may copy in row-major order
Origins = tuple[int | None, ...]  # of each dimension: which one of the block's input it is


@torch.no_grad()
def channel_axes(model: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, int]:
    """Return the dimension of the channels of blocks' features, in the order in which they run.

    Args:
        model: the network, in evaluation mode.
        names: blocks that can be removed, or units.
        images: (n, c, h, w) on the model's device; two are used.

    Raises:
        BlockError: a block's layers do not show it.
    """
    found: dict[str, _Followed] = {}

    with ExitStack() as following:

        def enter(name: str, x: Tensor) -> None:
            found[name] = following.enter_context(_Followed(x))

        def leave(*_: Any) -> None:
            following.close()

        with watched(model, names, on_enter=enter, on_leave=leave):
            model(images[:2])
    return {name: followed.axis(name) for name, followed in found.items()}


class _Followed(TorchFunctionMode):
    """A tensor and what is made of it, as far as its dimensions can be told apart."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self._seen: dict[int, tuple[Tensor, Origins]] = {id(x): (x, tuple(range(x.ndim)))}
        self._along: dict[str, set[int]] = {"vectors": set(), "matrices": set()}
        self._ndim = x.ndim

    def axis(self, name: str) -> int:
        """Return the dimension along which layers work; where they differ, norms decide."""
        axes = self._along["vectors"] or self._along["matrices"]
        if self._ndim == 2:
            return 1
        if len(axes) == 1:
            return next(iter(axes))
        which = f"dimensions {sorted(axes)} alike" if axes else "none"
        raise BlockError(
            f"block {name!r}: which dimension of its input holds the channels cannot be read from "
            f"its layers (they work along {which}), so no map can replace it; set replacement: "
            "identity and plan.dead_branches: false"
        )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and note what it does to what is followed."""
        followed = next((self._seen[id(t)] for t in _tensors(args) if id(t) in self._seen), None)
        result = func(*args, **(kwargs or {}))
        if followed is not None:
            self._note(func.__name__, followed, [*_tensors(args)], [*_tensors([result])])
        return result

    def _note(
        self, name: str, followed: tuple[Tensor, Origins], args: list[Tensor], results: list[Tensor]
    ) -> None:
        x, origins = followed
        for kind, layers in (("matrices", MATRICES), ("vectors", VECTORS)):
            if name in layers:
                self._add(kind, origins[layers[name]])
                return
        for result in results:
            if (known := _origins(name, x, origins, result)) is not None:
                self._seen[id(result)] = (result, known)
        for vector in (p for p in args if isinstance(p, nn.Parameter)):
            aligned = [axis - vector.ndim for axis, n in enumerate(vector.shape) if n > 1]
            if len(aligned) == 1 and vector.ndim <= x.ndim:
                self._add("vectors", origins[aligned[0]])

    def _add(self, kind: str, axis: int | None) -> None:
        if axis:  # never along the images
            self._along[kind].add(axis)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _origins(name: str, x: Tensor, origins: Origins, result: Tensor) -> Origins | None:
    """Return which dimensions of the block's input those of `result` are; None where unknown."""
    if result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return _matched(x.shape, x.stride(), origins, result.shape, result.stride())
    if result.shape == x.shape:
        return origins
    if name in REORDERED:
        rows = [_row_major(t.shape) for t in (x, result)]
        return _matched(x.shape, rows[0], origins, result.shape, rows[1])
    return None


def _row_major(shape: Sequence[int]) -> list[int]:
    return [*accumulate(reversed(shape[1:]), mul, initial=1)][::-1]


def _matched(
    shape: Sequence[int],
    strides: Sequence[int],
    origins: Origins,
    new_shape: Sequence[int],
    new_strides: Sequence[int],
) -> Origins:
    """Return the origins of a view's dimensions: a stride lies within the one that it steps along.

    A dimension that runs over several has none.
    """
    spans = [(s, s * n, o) for n, s, o in zip(shape, strides, origins, strict=True) if n > 1 and s]
    return tuple(
        next((o for low, high, o in spans if low <= s and s * n <= high), None) if n > 1 else None
        for n, s in zip(new_shape, new_strides, strict=True)
    )
