"""Make variants of a grid and run all that is not done, also side by side.

The grid is key=value,value for keys of a variant: those of model, train, method and plan, by their
path or, where it is clear, their last part. Its variants are added to params.yaml; then every
variant there is brought up to date. A variant that fails does not stop the rest: it is listed in
metrics/failed.json and in the report, and tried again by the next sweep. A sweep that was stopped
or killed goes on where it was.

examples:
  python -m pipeline sweep lambda=0,1,5 seed=0,1,2 --dry-run     what would be added
  python -m pipeline sweep lambda=0,1,5 seed=0,1,2 -j 2          two at a time
  python -m pipeline sweep -j 2                                  what is left or failed
  python -m pipeline sweep model=resnet18,resnet34 'model.options={}' --slurm --gpus 1
  python -m pipeline sweep --optuna 20 -j 2                      let Optuna choose
  python -m pipeline sweep epochs=1,3 --optuna 20 --timeout 60   from these, for an hour

It ends with 1 where a variant failed.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from models.errors import ParamsError
from pipeline.cli.exit_codes import DONE, FAILED
from pipeline.cli.sweep.grid import Settings, parse_grid, points
from pipeline.cli.sweep.jobs import Message, only_sweep, run_locally
from pipeline.cli.sweep.new_variants import add_variants, named
from pipeline.cli.sweep.runner import Workers, report, sweep
from pipeline.cli.sweep.slurm import executor, run_on_slurm
from pipeline.core.hardware import usable_cores
from pipeline.core.params import PARAMS, Params, load_params
from pipeline.core.progress import is_quiet
from pipeline.report.failures import Failure

ABOVE_ZERO = click.FloatRange(min=0, min_open=True)
ONE_OR_MORE = click.IntRange(min=1)
ZERO_OR_MORE = click.IntRange(min=0)


@click.command(help=__doc__)
@click.argument("grid", nargs=-1, metavar="KEY=VALUES…")
@click.option("--dry-run", is_flag=True, help="Print the variants, do nothing.")
@click.option(
    "-j", "--jobs", type=ONE_OR_MORE, metavar="N", help="Variants at a time (default: 1)."
)
@click.option("--optuna", type=ZERO_OR_MORE, metavar="TRIALS", help="Trials of a study by Optuna.")
@click.option("--timeout", type=ABOVE_ZERO, metavar="MINUTES", help="Optuna: then begin no more.")
@click.option("--slurm", "cluster", flag_value="slurm", help="Slurm: a job per variant.")
@click.option("--slurm-local", "cluster", flag_value="local", help="Slurm: try it, here.")
@click.option("--partition", metavar="NAME", help="Slurm: where the jobs run.")
@click.option("--hours", type=ABOVE_ZERO, metavar="H", help="Slurm: time limit (default: 24).")
@click.option("--cpus", type=ONE_OR_MORE, metavar="N", help="Slurm: per job (default: 4).")
@click.option("--gpus", type=ZERO_OR_MORE, metavar="N", help="Slurm: per job (default: 0).")
@click.option("--memory-gb", type=ABOVE_ZERO, metavar="GB", help="Slurm: per job.")
def command(
    *,
    grid: Sequence[str],
    dry_run: bool,
    jobs: int | None,
    optuna: int | None,
    timeout: float | None,
    cluster: str | None,
    **asked: Any,
) -> int:
    """Add the variants, run them, and report on all."""
    axes = parse_grid(grid)
    if optuna is None and timeout is not None:
        raise ParamsError("--timeout is of --optuna; leave it out, or add --optuna N")
    workers = workers_of(cluster, jobs, **asked)
    if dry_run:
        _print_addition(named(points(axes)))
        return DONE
    message: Message = (lambda _: None) if is_quiet() else partial(print, flush=True)
    with only_sweep(message):
        if optuna is None:
            failed = _add_and_run(axes, workers, message)
        else:
            limits = {"trials": optuna, "at_once": jobs or 1, "minutes": timeout or math.inf}
            failed = _optimise(axes, workers, message, **limits)
        report(message)
    for name, failure in failed.items():
        print(f"failed: {name} in {failure.stage}: {failure.reason}")
    message("next: python -m pipeline compare")
    return FAILED if failed else DONE


def _print_addition(wanted: dict[str, Settings]) -> None:
    addition = add_variants(wanted, dry_run=True)
    for line in addition.lines:
        print(f"  {line}")
    print(f"{len(addition.new)} variants to add, {len(addition.present)} are in {PARAMS}")


def workers_of(cluster: str | None, jobs: int | None, **asked: Any) -> Workers:
    """Return who runs the variants: processes here, or jobs of Slurm.

    Args:
        cluster: as `executor` takes it; None: this machine.
        jobs: how many run at once.
        asked: of each job of Slurm: partition, hours, cpus, gpus, memory_gb; None: not asked for.

    Raises:
        ParamsError: something is asked of Slurm without it.
        BackendUnavailable: submitit is not installed, or there is no Slurm here.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if cluster is None and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ParamsError(f"only with --slurm: {options}; add --slurm, or leave out")
    if cluster is None:
        count = jobs or 1
        threads = max(1, usable_cores() // count) if count > 1 else None
        run = partial(run_locally, workers=count, threads=threads)
        return Workers(run, share_machine=True)
    names = {
        "partition": "slurm_partition",
        "hours": "timeout_min",
        "cpus": "cpus_per_task",
        "gpus": "gpus_per_node",
        "memory_gb": "mem_gb",
    }
    wanted = {names[name]: value for name, value in given.items()}
    if "hours" in given:
        wanted["timeout_min"] = round(60 * given["hours"])
    wanted["slurm_array_parallelism"] = jobs or 256
    return Workers(partial(run_on_slurm, executor=executor(cluster, wanted)), share_machine=False)


def _add_and_run(
    axes: dict[str, list[Any]], workers: Workers, message: Message
) -> dict[str, Failure]:
    """Add the grid's variants and run all that are in params.yaml; return those that failed."""
    added = add_variants(named(points(axes)))
    if axes:
        message(f"{PARAMS}: {len(added.new)} variants added, {len(added.present)} were there")
    params = load_params()
    return sweep(params, list(params.variants), workers, message)


def _optimise(
    axes: dict[str, list[Any]], workers: Workers, message: Message, **limits: Any
) -> dict[str, Failure]:
    """Bring the study to its trials, print its front, and run what else is not done."""
    from pipeline.cli.sweep.optuna_study import print_front, search

    failed: dict[str, Failure] = {}

    def run(params: Params, names: Sequence[str]) -> dict[str, Failure]:
        found = sweep(params, names, workers, message)
        failed.update(found)
        return found

    print_front(search(axes, run, message, **limits))
    params = load_params()
    rest = [name for name in params.variants if name not in failed]
    return failed | sweep(params, rest, workers, message)
