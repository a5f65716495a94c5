"""Which device and arithmetic this machine trains and evaluates with, decided at run time."""

import torch


def pick_device() -> torch.device:
    """Return the first CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return the autocast type for ``auto | fp32 | bf16 | fp16``; float32 means no autocast.

    ``auto`` takes bf16 on CUDA devices from Ampere on, fp16 on older ones, and fp32 on CPUs, where
    bf16 has left uninitialised memory in gradients (`models.padding`).
    """
    fixed = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if wanted in fixed:
        return fixed[wanted]
    if device.type == "cuda":
        native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native_bf16 else torch.float16
    return torch.float32
