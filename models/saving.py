"""Tensors to a file, where a disk that is full is an `OSError`, as with every other file."""

import re
from collections.abc import Mapping
from os import strerror
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors of the CPU as safetensors.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as e:
        if not (found := SYSTEM_ERROR.search(str(e))):
            raise
        code = int(found[1])
        raise OSError(code, strerror(code), str(path)) from e


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write what `torch.load` reads: tensors, and plain values in which they lie.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as e:  # PyTorch's own, of a file that is shorter than it should be
            if isinstance(e.__context__, OSError):
                raise e.__context__ from e
            raise
