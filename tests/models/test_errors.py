"""A shortage of memory is reported as one, and nothing else is."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models.errors import ArtifactError, OutOfMemoryError, enough_memory
from models.weights.saving import load_state, save_state
from pipeline.train.checkpoints import damaged

HUGE = 2**50  # bytes, more than any machine has
SHORTAGES = [
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 1125899906842624 bytes. Error code 12 (Cannot allocate memory)",
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "std::bad_alloc",
    "could not create a primitive",
    "could not execute a primitive",
]
OTHERS = [
    "could not create a primitive descriptor for a convolution forward propagation primitive",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234",
]


@pytest.mark.parametrize("message", SHORTAGES)
def test_what_libraries_say_of_a_shortage(message: str) -> None:
    with pytest.raises(OutOfMemoryError, match="; take less"), enough_memory("take less"):
        raise RuntimeError(message)


@pytest.mark.parametrize("message", OTHERS)
def test_other_errors_stay_what_they_are(message: str) -> None:
    with pytest.raises(RuntimeError) as caught, enough_memory("take less"):
        raise RuntimeError(message)
    assert str(caught.value) == message


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Let this process have so much memory more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    held = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_checkpoint_for_which_there_is_no_room_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state({"model": torch.zeros(2**28, dtype=torch.uint8)}, path)
    with room_for(2**27), pytest.raises(OutOfMemoryError, match=r"end other programs: .*state\.pt"):
        load_state(path)
    assert load_state(path)["model"].shape == (2**28,)


def test_taking_up_a_state_without_room_for_it_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError), damaged(tmp_path / "state.pt"):
        torch.empty(HUGE, dtype=torch.uint8)
    with (
        pytest.raises(ArtifactError, match=r"state\.pt is damaged"),
        damaged(tmp_path / "state.pt"),
    ):
        raise KeyError("model")
