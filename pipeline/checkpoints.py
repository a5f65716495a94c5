"""The resumable state of a training in a file: whole, or one error that names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.errors import ArtifactError
from models.saving import load_state, save_state
from pipeline.artifacts import replace_file


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, texts and containers of them, atomically."""
    with replace_file(path) as temporary:
        save_state(state, temporary)


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote, its tensors on the CPU; `ArtifactError` where it is damaged."""
    return load_state(path, torch.device("cpu"))


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn what taking up the state of another training leads to into an `ArtifactError`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as e:
        raise ArtifactError(f"checkpoint {path} is damaged ({e}); delete it") from e
