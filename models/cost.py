"""What a network costs: its parameters and its multiply-accumulates for one image."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters (without buffers such as running statistics)."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Return the MACs of convolutions and matrix products for one image.

    Args:
        model: in evaluation mode.
        example: images (n, c, h, w) on the model's device; the first is used.
    """
    counter = FlopCounterMode(display=False)
    # Fused attention is counted as nothing on the CPU; spelt out as matrix products it counts.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(example[:1])
    return counter.get_total_flops() // 2  # a multiply-accumulate is two operations
