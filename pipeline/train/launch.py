"""The processes of one training: started here, or joined where `torchrun` started them.

Each has a device of its own: a CUDA device (NCCL), or cores of the CPU (gloo). docs/scale.md has
the commands for one and for several machines.
"""

import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from models.errors import ShoalError
from pipeline.devices import pick_device
from pipeline.engines.machine import usable_cores

GRACE_S = 5.0  # in which torchrun ends a process because another one has failed


def to_start(wanted: int | None) -> int:
    """Return how many processes are to be started here: none where this is one of them already.

    Args:
        wanted: of one training; None: one per CUDA device of this machine.

    Raises:
        ShoalError: there are not so many CUDA devices.
    """
    if dist.is_torchelastic_launched():
        return 0
    devices = torch.cuda.device_count()
    count = max(devices, 1) if wanted is None else wanted
    if devices:
        _require_devices(count, "train.processes")
    return count if count > 1 else 0


def start(count: int, module: str, argument: str) -> None:
    """Run a module in `count` processes of this machine, as `torchrun` does, and wait for them.

    The module's own errors are its own to tell.

    Raises:
        ShoalError: a process was killed.
        SystemExit: a process failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(threads_of_each(count))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, argument)
    except ChildFailedError as e:
        rank, failure = e.get_first_failure()
        if failure.exitcode >= 0:
            raise SystemExit(failure.exitcode) from None
        raise ShoalError(
            f"process {rank} of {count} was killed by {failure.signal_name()}, the others were "
            "stopped; run it again to continue (if memory ran out: fewer processes, or a smaller "
            "train.batch_size)"
        ) from e


def threads_of_each(count: int) -> int:
    """Return how many threads each of `count` processes has of those that the training may use.

    That is OMP_NUM_THREADS, as a sweep sets it to share the cores among variants; else all cores.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(told) if told.isdecimal() else usable_cores()) // count)


@contextmanager
def joined() -> Iterator[torch.device]:
    """Yield this process's device, with the processes that `torchrun` started as one group.

    A process that was started alone is a group of itself. Of several that fail by a `ShoalError`,
    the first raises it and the others end in silence.

    Raises:
        ShoalError: more processes than CUDA devices were started on this machine.
    """
    if not dist.is_torchelastic_launched():
        yield pick_device()
        return
    device = _own_device()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except ShoalError as e:
        if not _first_to_fail():  # mostly by the same error
            time.sleep(GRACE_S)
            raise SystemExit(1) from e
        raise
    except RuntimeError:  # mostly that a process is gone, which is told elsewhere
        time.sleep(GRACE_S)
        raise
    dist.destroy_process_group()


def _first_to_fail() -> bool:
    """Say, to the first process that asks, that it is the first."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    first: bool = store.add("shoal/failed", 1) == 1
    return first


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    _require_devices(int(os.environ["LOCAL_WORLD_SIZE"]), "--nproc-per-node")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def _require_devices(processes: int, asked: str) -> None:
    devices = torch.cuda.device_count()
    if processes > devices:
        raise ShoalError(
            f"{asked} = {processes}, but this machine has {devices} CUDA devices, one for each "
            f"process; ask for at most {devices}"
        )
