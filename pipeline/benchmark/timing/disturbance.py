"""Whether anything disturbed a run: other processes on its cores, a reference that drifted."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from pipeline.benchmark.timing.confidence import Rounds, quiet
from pipeline.benchmark.timing.protocol import usable

PARTS = 4  # of a run, one after the other, whose latencies are compared


class OtherWork:
    """How much of the cores other processes took while this one was timing."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.cores = 0.0  # that others took of those that this process may use, on average
        self._started = time.monotonic(), _busy_seconds(), _own_seconds()

    def stop(self) -> None:
        """Take stock of the time since the start."""
        now = time.monotonic(), _busy_seconds(), _own_seconds()
        wall, busy, own = (end - start for end, start in zip(now, self._started, strict=True))
        self.cores = round(max(0.0, busy - own) / wall, 3)

    @property
    def share(self) -> float:
        """Return what others took from the threads of this process: 0 where cores were left."""
        left = (len(usable()) or psutil.cpu_count() or 1) - self.threads
        return max(0.0, self.cores - max(0, left)) / self.threads


@contextmanager
def watched(threads: int) -> Iterator[OtherWork]:
    """Yield what knows, once the block has ended, how much other processes worked meanwhile."""
    other = OtherWork(threads)
    yield other
    other.stop()


def _busy_seconds() -> float:
    """Return for how long the cores of this process have worked, for whomever."""
    cores = usable()
    times = psutil.cpu_times(percpu=True)
    own = [times[core] for core in cores] if cores and cores[-1] < len(times) else times
    return sum(sum(one) - one.idle - getattr(one, "iowait", 0.0) - _guests(one) for one in own)


def _guests(one: object) -> float:
    """Return the time of virtual machines, which Linux counts twice."""
    return float(getattr(one, "guest", 0.0) + getattr(one, "guest_nice", 0.0))


def _own_seconds() -> float:
    own = psutil.Process().cpu_times()
    return float(own.user + own.system)


def drift_pct(durations: Rounds) -> float:
    """Return by how much the slowest quarter of a run was slower than its fastest, in percent."""
    parts = [quiet(part) for part in np.array_split(durations, min(PARTS, len(durations)))]
    return 100 * (max(parts) / min(parts) - 1)
