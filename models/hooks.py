"""What enters and leaves blocks in a forward pass: observed, or replaced, by hooks.

Every hook on a network is set here, and removed at the end of its ``with``, whatever happens in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from models.errors import BlockError
from models.surgery import module_paths

# Names of blocks; or for each name the modules in which it begins and ends, as of a `Unit`.
Blocks = Iterable[str] | Mapping[str, tuple[str, str]]
# Given a block's name and a tensor; what it returns, unless it is None, replaces the tensor.
OnTensor = Callable[[str, Tensor], Tensor | None]
OnEnter = Callable[[str, nn.Module, Any, Any], Any]  # name, module, args, kwargs
OnLeave = Callable[[str, nn.Module, Any, Any], Any]  # name, module, args, output


def _observe(*_: Any) -> None:
    """Replace nothing."""


@contextmanager
def hooked(
    model: nn.Module, blocks: Blocks, *, on_enter: OnEnter = _observe, on_leave: OnLeave = _observe
) -> Iterator[None]:
    """Set torch's hooks on blocks, with the block's name as their first argument.

    Args:
        model: the network; ``""`` names the whole of it.
        blocks: where; in a block called more than once, at every call.
        on_enter: returns (args, kwargs) to replace them, or None.
        on_leave: returns another result to replace it, or None.
    """
    with ExitStack() as hooks:
        for name, (first, last) in _ends(blocks).items():
            start, end = model.get_submodule(first), model.get_submodule(last)
            enter, leave = partial(on_enter, name), partial(on_leave, name)
            hooks.enter_context(start.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.enter_context(end.register_forward_hook(leave))
        yield


def _ends(blocks: Blocks) -> Mapping[str, tuple[str, str]]:
    if isinstance(blocks, Mapping):
        return blocks
    paths = {name: module_paths(name) for name in blocks}
    return {name: (path[0], path[-1]) for name, path in paths.items()}


@contextmanager
def watched(
    model: nn.Module,
    blocks: Blocks,
    *,
    on_enter: OnTensor = _observe,
    on_leave: OnTensor = _observe,
) -> Iterator[None]:
    """Call functions with the first argument of blocks and with what leaves them.

    Arguments are those of `hooked`.
    """

    def enter(name: str, _: nn.Module, args: Any, kwargs: Any) -> Any:
        key = next(iter(kwargs), None)
        replaced = on_enter(name, args[0] if args else kwargs.get(key))
        if replaced is None:
            return None
        return ((replaced, *args[1:]), kwargs) if args else (args, {**kwargs, key: replaced})

    def leave(name: str, _: nn.Module, __: Any, y: Tensor) -> Tensor | None:
        return on_leave(name, y)

    with hooked(model, blocks, on_enter=enter, on_leave=leave):
        yield


@contextmanager
def paired(
    model: nn.Module, blocks: Blocks, on_leave: Callable[[str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call a function with each block's name, first argument and result, as the block ends.

    What it returns, unless it is None, replaces the result.
    """
    entered: dict[str, Tensor] = {}
    with watched(
        model,
        blocks,
        on_enter=entered.__setitem__,
        on_leave=lambda name, y: on_leave(name, entered.pop(name), y),
    ):
        yield


class _Reached(Exception):  # noqa: N818 - ends a forward pass that went far enough
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _stop(_: str, tensor: Tensor) -> None:
    raise _Reached(tensor)


def run_to_start(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """Run the model up to a block and return what enters it.

    Raises:
        BlockError: the network does not call the block.
    """
    return _run_until(model, name, images, on_enter=_stop)


def run_to_end(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """Run the model until a block ends and return what leaves it; errors as `run_to_start`."""
    return _run_until(model, name, images, on_leave=_stop)


def _run_until(model: nn.Module, name: str, images: Tensor, **stop: OnTensor) -> Tensor:
    try:
        with watched(model, [name], **stop):
            model(images)
    except _Reached as reached:
        return reached.tensor
    raise BlockError(f"block {name!r} is not called in a forward pass")
