"""Images in a file, of which rows are read when they are taken: a file may exceed the memory."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from models.errors import ArtifactError, OutOfMemoryError


class MappedImages:
    """Images (n, c, h, w) in a .npy file, mapped for reading alone; rows taken are copies."""

    def __init__(self, array: UInt8[np.ndarray, "n c h w"]) -> None:
        self._array = np.asarray(array)
        self.shape = array.shape
        self.dtype = torch.uint8

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: int | slice | Tensor) -> UInt8[Tensor, "*k c h w"]:
        """Return these rows, read into memory."""
        taken = self._array[rows.numpy() if isinstance(rows, Tensor) else rows]
        return torch.from_numpy(np.require(taken, requirements=("C", "W")))

    def numpy(self) -> UInt8[np.ndarray, "n c h w"]:
        """Return all of them as an array that cannot be written to, read where it is used."""
        return self._array


def map_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Map a .npy file, as its stage wrote it.

    Raises:
        ArtifactError: it holds something else than its manifest says.
        OutOfMemoryError: the process may not have so much address space.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as e:
        if e.errno != errno.ENOMEM:
            raise
        raise OutOfMemoryError(
            f"{path} has {path.stat().st_size:,} bytes, more than this process may map; "
            "raise its address space (ulimit -v), or lower prepare.image_size or prepare.limit"
        ) from e
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactError(
            f"{path} holds {array.dtype} {array.shape}, but its manifest says {dtype} {shape}; "
            "delete the folder and run `dvc repro`"
        )
    return array
