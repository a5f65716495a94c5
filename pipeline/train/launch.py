"""The processes of one training: torchrun's, used as a library, or joined under an outer torchrun.

Each has a device of its own: a CUDA device (NCCL), or cores of the CPU (gloo). docs/scale.md has
the commands for one and for several machines.
"""

import ctypes
import logging
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from textwrap import shorten

import torch
import torch.distributed as dist

from models.errors import ShoalError
from pipeline.core.devices import pick_device
from pipeline.core.exits import Stopped
from pipeline.core.hardware import usable_cores

GRACE_S = 5.0  # in which torchrun ends a process because another one has failed
ANSWER_S = float(os.environ.get("SHOAL_ANSWER_S", "600"))  # that processes wait for each other
STARTER = "SHOAL_STARTER"  # in the environment of processes: the id of the one that started them
# What torch says where another process was lost, or does not answer.
LOST = re.compile(r"timed? ?out|connection (closed|reset|refused)|gloo|nccl|broken pipe", re.I)
PR_SET_PDEATHSIG = 1  # of Linux


def to_start(wanted: int | None) -> int:
    """Return how many processes are to be started here: none where this is one of them already.

    Args:
        wanted: of one training; None: one per CUDA device of this machine.

    Raises:
        ShoalError: there are not so many CUDA devices.
    """
    if dist.is_torchelastic_launched():
        return 0
    count = max(torch.cuda.device_count(), 1) if wanted is None else wanted
    _require_devices(count, "train.processes")
    return count if count > 1 else 0


def start(count: int, module: str, argument: str) -> None:
    """Run a module in `count` processes of this machine, as `torchrun` does, and wait for them.

    A module's own errors are reported by its process. A signal that ends this process (SIGTERM,
    Ctrl-C) ends all of them.

    Raises:
        ShoalError: a process was killed.
        Stopped: this one is to end.
        SystemExit: a process failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= {"OMP_NUM_THREADS": str(threads_of_each(count)), STARTER: str(os.getpid())}
    config = LaunchConfig(
        *(1, 1, count),  # machines at least and at most, processes
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, argument)
    except SignalException as e:
        raise Stopped(e.sigval) from e
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
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, (int(given) if given.isdecimal() else usable_cores()) // count)


@contextmanager
def joined() -> Iterator[torch.device]:
    """Yield this process's device, with the processes that `torchrun` started as one group.

    A process that was started alone is a group of itself. Of several that fail by a `ShoalError`,
    the first raises it and the others end without a message.

    A process ends with the one that started it, also where that one is killed.

    Raises:
        ShoalError: more processes than CUDA devices were started on this machine, or another one
            did not answer for `ANSWER_S` seconds.
    """
    if not dist.is_torchelastic_launched():
        yield pick_device()
        return
    _end_with_the_starter()
    device = _own_device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=ANSWER_S))
    try:
        yield device
    except ShoalError as e:
        if not _first_to_fail():  # mostly by the same error
            time.sleep(GRACE_S)
            raise SystemExit(1) from e
        raise
    except KeyboardInterrupt:  # which the starter reports
        raise SystemExit(1) from None
    except RuntimeError as e:
        if not LOST.search(str(e)):
            raise
        time.sleep(GRACE_S)  # a process that was killed is reported by its starter
        if not _first_to_fail():
            raise SystemExit(1) from e
        raise ShoalError(
            f"another process of this training does not answer ({shorten(str(e), 160)}; they wait "
            f"{ANSWER_S:.0f} s for each other); all were stopped, run it again to continue"
        ) from e
    dist.destroy_process_group()


def _end_with_the_starter() -> None:
    """Let the kernel kill this process as soon as its parent has ended, however that came."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(STARTER, str(os.getppid())) != str(os.getppid()):  # it has ended before
        raise SystemExit(1)


def _first_to_fail() -> bool:
    """Return True to the first process that asks, False to the others."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    first: bool = store.add("shoal/failed", 1) == 1
    return first


def _own_device() -> torch.device:
    _require_devices(int(os.environ["LOCAL_WORLD_SIZE"]), "--nproc-per-node")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def _require_devices(processes: int, asked: str) -> None:
    """Raise `ShoalError` where processes would share CUDA devices; cores of a CPU they may."""
    devices = torch.cuda.device_count()
    if 0 < devices < processes:
        raise ShoalError(
            f"{asked} = {processes}, but this machine has {devices} CUDA devices, one for each "
            f"process; ask for at most {devices}"
        )
