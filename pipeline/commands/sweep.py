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

import argparse
import math
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any

import yaml

from models.errors import ParamsError
from pipeline.commands import DONE, FAILED
from pipeline.commands.arguments import count, one_or_more, positive
from pipeline.engines.machine import usable_cores
from pipeline.failures import Failure
from pipeline.grid import Settings, nested, parse_grid, points
from pipeline.new_variants import add_variants, named
from pipeline.params import PARAMS, Params, load_params
from pipeline.slurm import Request, require_submitit, run_on_slurm
from pipeline.sweep import Tell, Workers, local_workers, only_sweep, report, sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the grid, and where and how it is run."""
    parser.add_argument("grid", nargs="*", metavar="KEY=VALUES", help="e.g. lambda=0,1,5")
    parser.add_argument("--dry-run", action="store_true", help="print the variants, do nothing")
    parser.add_argument(
        *("-j", "--jobs"),
        type=one_or_more,
        metavar="N",
        help="variants at a time (default: 1; jobs of Slurm: what it runs)",
    )
    optuna = parser.add_argument_group("Optuna")
    optuna.add_argument(
        "--optuna", type=count, metavar="N", help="trials that the study is to have"
    )
    optuna.add_argument("--timeout", type=positive, metavar="MINUTES", help="then begin no more")
    slurm = parser.add_argument_group("Slurm")
    slurm.add_argument(
        "--slurm", dest="cluster", action="store_const", const="slurm", help="a job per variant"
    )
    slurm.add_argument(
        "--slurm-local",
        dest="cluster",
        action="store_const",
        const="local",
        help="the same without Slurm, as processes here: to try it",
    )
    slurm.add_argument("--partition", metavar="NAME")
    slurm.add_argument("--hours", type=positive, help="time limit (default: 24)")
    slurm.add_argument("--cpus", type=one_or_more, metavar="N", help="per job (default: 4)")
    slurm.add_argument("--gpus", type=count, metavar="N", help="per job (default: 0)")
    slurm.add_argument("--memory-gb", type=positive, metavar="GB", help="per job")


def run(arguments: argparse.Namespace) -> int:
    """Add the variants, run them, and report on all."""
    axes = parse_grid(arguments.grid)
    _require_its_option(arguments)
    if arguments.dry_run:
        _print_addition(named(points(axes)))
        return DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as cleanly as Ctrl-C
    tell: Tell = (lambda _: None) if arguments.quiet else partial(print, flush=True)
    with only_sweep(tell) as lock:
        workers = workers_of(arguments, lock)
        failed: dict[str, Failure] = {}
        if arguments.optuna is not None:
            failed |= _optimise(arguments, axes, workers, tell)
        else:
            added = add_variants(named(points(axes)))
            if axes:
                tell(f"{PARAMS}: {len(added.new)} variants added, {len(added.present)} were there")
        params = load_params()
        rest = [name for name in params.variants if name not in failed]
        failed |= sweep(params, rest, workers, tell)
        report(tell, lock)
    for name, failure in failed.items():
        print(f"failed: {name} in {failure.stage}: {failure.reason}")
    tell("next: python -m pipeline compare")
    return FAILED if failed else DONE


def _require_its_option(arguments: argparse.Namespace) -> None:
    if arguments.optuna is None and arguments.timeout is not None:
        raise ParamsError("--timeout is of --optuna; leave it out, or add --optuna N")
    if arguments.cluster is None and (given := _requested(arguments)):
        options = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise ParamsError(f"only with --slurm: {options}; add --slurm, or leave out")


def _requested(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is asked of Slurm, as `Request` has it."""
    keys = ("partition", "hours", "cpus", "gpus", "memory_gb")
    values = {key: getattr(arguments, key) for key in keys}
    return {key: value for key, value in values.items() if value is not None}


def _print_addition(wanted: dict[str, Settings]) -> None:
    addition = add_variants(wanted, dry_run=True)
    for name, settings in addition.new.items():
        line = yaml.safe_dump(nested(settings), default_flow_style=True, width=math.inf)
        print(f"  {name}: {line.strip()}")
    print(f"{len(addition.new)} variants to add, {len(addition.present)} are in {PARAMS}")


def workers_of(arguments: argparse.Namespace, lock: int) -> Workers:
    """Return who runs the variants: processes here, or jobs of Slurm."""
    if arguments.cluster is None:
        return local_workers(arguments.jobs or 1, usable_cores(), lock)
    require_submitit()
    at_once = {"at_once": arguments.jobs} if arguments.jobs else {}
    request = Request(cluster=arguments.cluster, **_requested(arguments), **at_once)
    return Workers(
        partial(run_on_slurm, request=request), alone=None, threads=request.cpus, lock=lock
    )


def _optimise(
    arguments: argparse.Namespace,
    axes: dict[str, list[object]],
    workers: Workers,
    tell: Tell,
) -> dict[str, Failure]:
    """Bring the study to its trials, print its front, and return the trials that failed."""
    from pipeline.study import search

    failed: dict[str, Failure] = {}

    def run_trials(params: Params, names: Sequence[str]) -> dict[str, Failure]:
        found = sweep(params, names, workers, tell)
        failed.update(found)
        return found

    lines = search(
        axes,
        run_trials,
        tell,
        trials=arguments.optuna,
        at_once=arguments.jobs or 1,
        timeout_s=None if arguments.timeout is None else 60 * arguments.timeout,
    )
    print("\n".join(lines))
    return failed
