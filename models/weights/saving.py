"""Tensors to a file and back: a full disk is an `OSError`, and a flipped bit is found.

A file of tensors holds the sha256 of what is in it.
"""

import errno
import hashlib
import json
import pickle
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from os import strerror
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import ArtifactError, enough_memory

KEY = "shoal"  # of the metadata of a file
# What reading a damaged archive raises.
DAMAGE = (
    *(BadZipFile, RuntimeError, ValueError, LookupError, EOFError, NotImplementedError),
    *(pickle.UnpicklingError, struct.error, zlib.error, AttributeError, TypeError),
)
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors of the CPU as safetensors, and with them their sha256.

    Raises:
        OSError: the file cannot be written.
    """
    # As one value: safetensors writes several in random order.
    whole = {KEY: json.dumps([tensors_sha256(tensors, metadata or {}), metadata or {}])}
    try:
        save_file(dict(tensors), path, metadata=whole)
    except SafetensorError as e:
        if not (found := SYSTEM_ERROR.search(str(e))):
            raise
        code = int(found[1])
        raise OSError(code, strerror(code), str(path)) from e


def load_tensors(
    path: Path, remedy: str = "delete it and run `dvc repro`"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata that `save_tensors` wrote.

    Args:
        path: of the file.
        remedy: what to do where it is damaged, as the end of a sentence.

    Raises:
        ArtifactError: it is missing or damaged, or another program has written it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            expected, metadata = json.loads(file.metadata()[KEY])
        if not isinstance(metadata, dict) or tensors_sha256(tensors, metadata) != expected:
            raise SafetensorError("its contents are not those that were written")
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e
    except (SafetensorError, RuntimeError) as e:  # the latter where torch cannot open the file
        raise ArtifactError(f"{path} is damaged ({e}); {remedy}") from e
    except (KeyError, ValueError, TypeError) as e:  # no metadata, or not ours
        raise ArtifactError(
            f"{path} is damaged (it lacks the sha256 of its contents); {remedy}"
        ) from e
    return tensors, metadata


def tensors_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return one sha256 of names, types, shapes and values, and of the metadata."""
    described = json.dumps(metadata, sort_keys=True).encode()
    return named_sha256(sorted(tensors.items()), described)


def named_sha256(tensors: Iterable[tuple[str, Tensor]], described: bytes = b"") -> str:
    """Return one sha256 of what describes tensors, and of their names, types, shapes and values.

    Args:
        tensors: names and tensors; another order is another sha256.
        described: what comes first.
    """
    found = hashlib.sha256(described)
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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


def _require_whole(path: Path) -> None:
    with ZipFile(path) as archive:
        try:
            broken = archive.testzip()
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            raise BadZipFile("a part of it lies before its start") from e
    if broken:
        raise BadZipFile(f"{broken} is not as it was written")


def load_state(path: Path) -> dict[str, Any]:
    """Return what `save_state` wrote, its tensors on the CPU.

    Torch itself does not compare the sums that are in the file.

    Raises:
        ArtifactError: the file is damaged.
        OutOfMemoryError: there is no room for what is in it.
    """
    try:
        _require_whole(path)
        with enough_memory(f"end other programs: {path} has {path.stat().st_size:,} bytes"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as e:
        why = " ".join(str(e).split())
        raise ArtifactError(f"checkpoint {path} is damaged ({why}); delete it") from e
    if not isinstance(state, dict):
        raise ArtifactError(f"checkpoint {path} holds no state; delete it")
    return state
