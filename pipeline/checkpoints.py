"""The resumable state of a training in a file: whole, or one error that names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import ArtifactError
from models.memory import enough_memory
from models.saving import load_state, save_state
from pipeline.artifacts import replace_file


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, texts and containers of them, atomically."""
    with replace_file(path) as temporary:
        save_state(state, temporary)


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote, its tensors on the CPU; `ArtifactError` where it is damaged."""
    return load_state(path)


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn what taking up the state of another training leads to into an `ArtifactError`.

    A shortage of memory stays one. What processes do together is done outside: a connection that
    breaks is a RuntimeError too, and no fault of the file.

    Raises:
        ArtifactError: the state does not fit.
        OutOfMemoryError: there is no room for it.
    """
    try:
        with enough_memory("end other programs on this device, or train on one that has more"):
            yield
    except (RuntimeError, ValueError, KeyError) as e:
        why = " ".join(str(e).split())
        raise ArtifactError(f"checkpoint {path} is damaged ({why}); delete it") from e
