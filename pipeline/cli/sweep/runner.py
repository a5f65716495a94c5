"""Bring variants up to date, several at once; one that fails does not stop the rest.

DVC decides what is done already, so a sweep that was stopped or killed continues where it was.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from models.errors import ParamsError, ShoalError
from pipeline.cli.dvc import changed_stages, described_stages
from pipeline.cli.sweep.jobs import SWEEPS, Ended, Job, Message, run_alone, run_locally
from pipeline.core.artifacts import metrics_path
from pipeline.core.params import LevelOfPlan, Params
from pipeline.report.failures import Failure, read_failures, record

TIMED = {"build"}  # TensorRT times kernels while it builds

Runner = Callable[[Sequence[Job], Ended], None]  # runs independent jobs


@dataclass(frozen=True)
class Workers:
    """Who runs the stages of variants, several at once."""

    run: Runner
    share_machine: bool  # then stages that time something run alone, when the others are done

    def parts(self, each: Sequence[str], params: Params) -> Iterator[tuple[Sequence[str], Runner]]:
        """Yield the stages of every variant in parts, with who runs each."""
        by_latency = any(one.plan.measures_latency for one in params.variants.values())
        timed = TIMED | ({"plan"} if by_latency else set())
        cut = len(each)
        if self.share_machine:
            cut = next((at for at, stage in enumerate(each) if stage in timed), cut)
        yield each[:cut], self.run
        if each[cut:]:
            yield each[cut:], run_locally


def sweep(
    params: Params, names: Sequence[str], workers: Workers, message: Message
) -> dict[str, Failure]:
    """Run what these variants lack, and return those that failed; they are put on record.

    Raises:
        ParamsError: variants wait for each other.
        ShoalError: a stage that all variants need failed.
    """
    stages = described_stages()
    run_shared("shared", stages.before)
    stale = {address.partition("@")[2] for address in changed_stages()}
    for name in read_failures():
        if name not in params.variants or (name in names and name not in stale):
            record(name, None)
    todo = [name for name in names if name in stale]
    message(f"{len(names) - len(todo)} of {len(names)} variants are up to date")
    failed: dict[str, Failure] = {}

    def ended(job: Job, failure: Failure | None) -> None:
        if failure is None:
            message(f"{job.name}: {job.targets[-1].partition('@')[0]} is done")
            return
        failed[job.name] = failure
        record(job.name, failure)
        message(f"{job.name} failed in {failure.stage}: {failure.reason} (log in {SWEEPS})")

    for ready in rounds(params, todo):
        for name in ready:
            if blocking := sorted(needs(params, name) & failed.keys()):
                ended(Job(name, []), Failure("train", f"blocked by {blocking[0]}, which failed"))
        for part, run in workers.parts(stages.each, params):
            left = [name for name in ready if name not in failed]
            if left:
                run([Job(name, [f"{stage}@{name}" for stage in part]) for name in left], ended)
        for name in set(ready) - failed.keys():
            record(name, None)
    return failed


def report(message: Message) -> None:
    """Run the stages over all variants: tables, plots, MLflow.

    Raises:
        ShoalError: one of them failed.
    """
    after = described_stages().after
    message(f"running {', '.join(after)}")
    run_shared("report", after)


def run_shared(name: str, stages: Sequence[str]) -> None:
    """Run stages that exist once, in this order."""
    if failure := run_alone(Job(name, stages)):
        raise ShoalError(f"{failure.stage} failed: {failure.reason} (log: {SWEEPS}/{name}.log)")


def rounds(params: Params, names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the variants in rounds; those of one round are made from none but earlier ones.

    DVC does not know that a variant learns from another or removes by another's plan.

    Raises:
        ParamsError: variants wait for each other.
    """
    todo = list(names)
    sorter = TopologicalSorter({name: needs(params, name) & set(todo) for name in todo})
    try:
        sorter.prepare()
    except CycleError as e:
        raise ParamsError(
            f"variants wait for each other: {' → '.join(e.args[1])}; change a strategy.remove.plan"
        ) from e
    while sorter.is_active():
        ready = sorter.get_ready()
        yield [name for name in todo if name in ready]
        sorter.done(*ready)


def needs(params: Params, name: str) -> set[str]:
    """Return the variants that one is made from: its teacher, and whose plan it removes by."""
    train = params.variants[name].train
    removed = train.strategy.remove
    plan = Path(removed.plan) if isinstance(removed, LevelOfPlan) else None
    planned = {other for other in params.variants if metrics_path("plan", other) == plan}
    return planned | ({train.distill.teacher} if train.distill.teacher else set())
