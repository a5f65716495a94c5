"""Bring variants up to date, many at once; one that fails does not stop the rest.

DVC decides what is done already, so a sweep that was stopped or killed goes on where it was.
Stages that time engines run alone: what runs beside them would be in their numbers.
"""

import fcntl
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from models.errors import ShoalError
from pipeline.dvc_stages import described_stages
from pipeline.engines.machine import cuda_devices
from pipeline.failures import Failure, read_failures, record
from pipeline.local_jobs import Done, run_locally
from pipeline.params import Params, Variant
from pipeline.stage_order import Order, needs, stage_order, waves
from pipeline.standing import ask_dvc
from pipeline.variant_run import SWEEPS, Job, log_path, run_job, variant_job

TIMED = "benchmark"
PLANNED = "plan"
BUILT = "build"
LEARNS = "train"  # reads networks and plans of other variants

Runner = Callable[[Sequence[Job], Done], None]  # runs independent jobs, tells of each as it ends
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Workers:
    """Who runs the stages of variants."""

    together: Runner  # what may run side by side
    alone: Runner | None  # what is timed; None: every job has a machine of its own
    threads: int | None  # of each process that runs side by side
    lock: int  # the file descriptor of `only_sweep`, which what runs on this machine holds too


def local_workers(count: int, cores: int, lock: int) -> Workers:
    """Return `count` processes on this machine, which share its cores.

    Args:
        count: how many variants run side by side.
        cores: of this machine.
        lock: as `Workers` has it.
    """
    return Workers(
        together=partial(run_locally, workers=count, inherit=[lock]),
        alone=partial(run_locally, workers=1, inherit=[lock]),
        threads=None if count == 1 else max(1, cores // count),
        lock=lock,
    )


@contextmanager
def only_sweep(tell: Tell) -> Iterator[int]:
    """Wait for other sweeps of this project, also for what a killed one has left running."""
    SWEEPS.mkdir(parents=True, exist_ok=True)
    with (SWEEPS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another sweep, or for what a killed one left running")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def sweep(params: Params, names: Sequence[str], workers: Workers, tell: Tell) -> dict[str, Failure]:
    """Run what these variants lack, and return those that failed; they are put on record.

    Raises:
        ShoalError: a stage that all variants need failed.
    """
    order = stage_order(described_stages())
    run_for_all("shared", order.before, workers.lock)
    todo = unfinished(names)
    progress = _Progress(len(todo) * len(order.each), tell)
    done = [name for name in names if name not in todo]
    for name in read_failures():
        if name in done or name not in params.variants:
            record(name, None)
    if done:
        tell(f"{len(done)} of {len(names)} variants are up to date")
    if todo:
        tell(f"running {len(todo)} variants; what they say is in {SWEEPS}/VARIANT.log")
    for wave in waves(params, todo):
        for name in wave:
            if failure := in_vain(params, name, order.each, progress.failed):
                progress.left_out(len(order.each), name, failure)
        ready = [name for name in wave if name not in progress.failed]
        if ready:
            _run_wave(params, ready, order, workers, progress)
    return progress.failed


def report(tell: Tell, lock: int) -> None:
    """Run the stages over all variants: tables, plots, MLflow.

    Args:
        tell: is told what runs.
        lock: as `Workers` has it.

    Raises:
        ShoalError: one of them failed.
    """
    order = stage_order(described_stages())
    tell(f"running {', '.join(order.after)}")
    run_for_all("report", order.after, lock)


def run_for_all(name: str, stages: Sequence[str], lock: int) -> None:
    """Run stages that exist once, in this order."""
    failure = run_job(Job(name, stages), inherit=[lock])
    if failure is not None:
        raise ShoalError(
            f"{failure.stage} failed: {failure.reason} (all it said: {log_path(name)})"
        )


def unfinished(names: Sequence[str]) -> list[str]:
    """Return the variants of which DVC has a stage to run.

    Raises:
        ArtifactError: DVC cannot tell.
    """
    stale = {stage.partition("@")[2] for stage in ask_dvc()}
    return [name for name in names if name in stale]


def timed_stages(params: Params, variant: Variant) -> set[str]:
    """Return the stages of a variant that time something; TensorRT times kernels to choose them."""
    timed = {TIMED}
    if variant.plan.measures_latency:
        timed.add(PLANNED)
    if "tensorrt" in params.build.backends and cuda_devices():
        timed.add(BUILT)
    return timed


def side_by_side(each: Sequence[str], timed: Container[str]) -> int:
    """Return how many of a variant's stages come before the first that times something."""
    return next((at for at, stage in enumerate(each) if stage in timed), len(each))


def in_vain(
    params: Params, name: str, each: Sequence[str], failed: Mapping[str, Failure]
) -> Failure | None:
    """Return the failure of a variant whose teacher or plan is not made, as that has failed."""
    for other, stage in needs(params.variants[name], params).items():
        after = each[each.index(stage) + 1 :]
        if other in failed and failed[other].stage not in after:
            return Failure(LEARNS, f"waits for {other}, which failed")
    return None


def _run_wave(
    params: Params,
    wave: Sequence[str],
    order: Order,
    workers: Workers,
    progress: "_Progress",
) -> None:
    """Run variants that do not wait for each other."""
    each = order.each
    cuts = {name: side_by_side(each, timed_stages(params, params.variants[name])) for name in wave}
    if workers.alone is None:
        cuts = dict.fromkeys(wave, len(each))
    first = [variant_job(name, each[: cuts[name]], workers.threads) for name in wave]
    workers.together(first, partial(progress.ended, len(each)))
    rest = [
        variant_job(name, each[cuts[name] :])
        for name in wave
        if cuts[name] < len(each) and name not in progress.failed
    ]
    if workers.alone is not None and rest:
        workers.alone(rest, partial(progress.ended, len(each)))


@dataclass
class _Progress:
    """What has been done so far, counted in stages."""

    total: int
    tell: Tell
    done: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def ended(self, stages: int, job: Job, failure: Failure | None) -> None:
        """Take in the end of a job of a variant that has so many stages in all."""
        name = job.name
        self.done[name] = self.done.get(name, 0) + len(job.targets)
        if failure is not None:
            self._failed(stages, name, failure)
            self.tell(f"{name} failed at {failure.stage}: {failure.reason} ({log_path(name)})")
        elif self.done[name] == stages:
            record(name, None)
        variants, finished = self.total // stages, list(self.done.values()).count(stages)
        self.tell(
            f"{finished} of {variants} variants, {sum(self.done.values())} of {self.total} stages"
            f"{self._left()} ({name})"
        )

    def left_out(self, stages: int, name: str, failure: Failure) -> None:
        """Take in that a variant of so many stages cannot be run."""
        self._failed(stages, name, failure)
        self.tell(f"{name} is left out: it {failure.reason}")

    def _failed(self, stages: int, name: str, failure: Failure) -> None:
        self.done[name] = stages
        self.failed[name] = failure
        record(name, failure)

    def _left(self) -> str:
        """Return the time left if the other stages take as long as those that are done."""
        done = sum(self.done.values())
        if done == self.total:
            return ""
        left_s = (time.monotonic() - self.started) * (self.total - done) / done
        return f", about {minutes(left_s)} left"


def minutes(seconds: float) -> str:
    """Return e.g. ``40 s`` or ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
