"""Say what works here, what does not, and what to do about it.

Looked at are the environment and its packages, params.yaml, devices, backends, data, MLflow's
store, DVC and what killed runs left behind. `ok` works; `warning`: the pipeline as it is configured
runs, with something missing or in the way; `fails`: it cannot run, and the exit code is 1. Nothing
is changed and nothing is downloaded.

examples:
  python -m pipeline doctor                   all of it
  python -m pipeline doctor -q                only what is not ok
  python -m pipeline doctor --json            for a program, or to put into a bug report
  python -m pipeline doctor && make repro     run only where it can
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from models.errors import ParamsError
from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.commands import DONE, FAILED
from pipeline.text_table import styled, terminal_width

if TYPE_CHECKING:
    from pipeline.params import Params

COLORS = {OK: "green", WARNING: "yellow", FAILS: "red"}

Report = dict[str, list[Finding]]  # by area


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the form."""
    parser.add_argument("--json", action="store_true", help="an object by area")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, and print."""
    report = examine()
    if arguments.json:
        found = {area: [asdict(each) for each in own] for area, own in report.items()}
        print(json.dumps(found, indent=2))
    else:
        _show(report, arguments.quiet)
    failing = any(each.state == FAILS for own in report.values() for each in own)
    return FAILED if failing else DONE


def examine() -> Report:
    """Return the findings by area; where a package that a check imports is missing, of packages."""
    from pipeline.checks.packages import SET_UP, packages, python

    try:
        return _examine()
    except ModuleNotFoundError as e:
        told = "cannot be imported, and without it nothing else can be looked at"
        return {"environment": [python(), *packages(), Finding(str(e.name), FAILS, told, SET_UP)]}


def _examine() -> Report:
    """Return the findings by area; without a valid params.yaml, those that need none."""
    from pipeline.checks.environment import environment
    from pipeline.checks.keeping import dvc
    from pipeline.params import PARAMS, load_params

    report = {"environment": list(environment()), "dvc": list(dvc())}
    try:
        params = load_params()
    except ParamsError as e:
        failing = Finding(str(PARAMS), FAILS, " ".join(str(e).split()), f"edit {PARAMS}")
        return {"parameters": [failing], **report}
    variants = Finding(str(PARAMS), OK, f"valid, {len(params.variants)} variants")
    own = {area: list(check(params)) for area, check in _checks().items()}
    return {"parameters": [variants], **report, **own}


def _checks() -> "dict[str, Callable[[Params], Iterator[Finding]]]":
    from pipeline.checks.backends import backends
    from pipeline.checks.data import data
    from pipeline.checks.keeping import store
    from pipeline.checks.leftovers import leftovers

    return {"backends": backends, "data": data, "mlflow": store, "leftovers": leftovers}


def _show(report: Report, quiet: bool) -> None:
    for area, own in report.items():
        shown = [each for each in own if each.state != OK or not quiet]
        if shown and not quiet:
            print(styled(area, "bold"))
        for each in shown:
            print("\n".join(_lines(each)))
    if not quiet:
        print(f"\n{_verdict(each.state for own in report.values() for each in own)}")


def _lines(each: Finding) -> Iterator[str]:
    state = styled(f"  {each.state:<8}", COLORS[each.state])
    width = max(40, (terminal_width() or 10_000) - 10)
    told = textwrap.wrap(f"{each.subject}: {each.told}", width, break_on_hyphens=False)
    yield f"{state} {told[0]}"
    yield from (f"           {line}" for line in told[1:])
    if each.remedy:
        yield f"           → {each.remedy}"


def _verdict(states: Iterable[str]) -> str:
    found = list(states)
    if FAILS in found:
        return f"the pipeline cannot run as it is configured: see `fails` ({found.count(FAILS)})"
    if WARNING in found:
        return f"the pipeline can run, with warnings ({found.count(WARNING)})"
    return "the pipeline can run"
