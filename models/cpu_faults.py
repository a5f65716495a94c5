"""Where torch's convolutions on CPUs (oneDNN) are at fault, and how training keeps out of the way.

A place of a kernel that sees only padding, as of 3×3 on maps of 1×1, has a gradient of zero. In
bfloat16 with AVX512-BF16 it is whatever was in memory: trainings with one seed differ, and weights
of 1e25 come up at the same loss. Such convolutions stay in float32.

Channels last, a 1×1 convolution of stride 2 on fewer than 16 channels writes beyond its memory for
an odd number of images on several threads, and the process is killed. Such networks stay as torch
lays them out.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.hooks import hooked

FEWEST_CHANNELS = 16


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the layout in which `model` is trained: channels last where the device can do it."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    narrow = any(
        max(m.stride) > 1 and max(m.kernel_size) == 1 and m.in_channels < FEWEST_CHANNELS
        for m in convolutions
    )
    at_fault = narrow and device.type == "cpu"
    return torch.contiguous_format if at_fault else torch.channels_last


@contextmanager
def padding_in_float32(model: nn.Module) -> Iterator[None]:
    """Take such convolutions of `model`, on the CPU, out of autocast meanwhile."""
    with ExitStack() as without:

        def enter(_: str, module: Any, args: tuple[Tensor, ...], kwargs: Any) -> Any:
            if not has_dead_taps(module, args[0].shape[2:]):
                return None
            without.enter_context(torch.autocast("cpu", enabled=False))
            return (args[0].float(), *args[1:]), kwargs

        def leave(*_: Any) -> None:
            without.close()

        names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
        with hooked(model, names, on_enter=enter, on_leave=leave):
            yield


def has_dead_taps(module: nn.Conv1d | nn.Conv2d, sizes: torch.Size) -> bool:
    """Say whether a place of the kernel sees nothing but padding on maps of these sizes."""
    return any(
        _has_dead_taps(size, *(values[axis] for values in _geometry(module)))
        for axis, size in enumerate(sizes)
    )


def _geometry(module: nn.Conv1d | nn.Conv2d) -> list[tuple[int, ...]]:
    """Return, by axis, the kernel's size, stride, dilation, and the padding before the map."""
    padding = module.padding
    if isinstance(padding, str):
        spans = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        padding = tuple(span // 2 if padding == "same" else 0 for span in spans)
    return [module.kernel_size, module.stride, module.dilation, padding]


def _has_dead_taps(size: int, kernel: int, stride: int, dilation: int, padding: int) -> bool:
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    return not all(
        any(0 <= start + tap * dilation < size for start in starts) for tap in range(kernel)
    )
