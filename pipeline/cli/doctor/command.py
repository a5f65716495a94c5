"""Say what works here, what does not, and what to do about it.

It checks Python and its packages, params.yaml, devices, backends, data and MLflow's store. `ok`
works; `warning`: the pipeline as it is configured runs, with something missing or in the way;
`fails`: it cannot run, and the exit code is 1. Nothing is changed and nothing is downloaded.

examples:
  python -m pipeline doctor                   all of it
  python -m pipeline doctor -q                only what is not ok
  python -m pipeline doctor --json            for a program, or to put into a bug report
  python -m pipeline doctor && make repro     run only where it can
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from models.errors import ParamsError
from pipeline.cli.arguments import as_json
from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding
from pipeline.cli.exit_codes import DONE, FAILED
from pipeline.core.progress import is_quiet

if TYPE_CHECKING:
    from pipeline.core.params import Params

COLORS = {OK: "green", WARNING: "yellow", FAILS: "red"}

# Of an address: who logs in, and the values of its query, among which tokens are.
LOGIN, QUERY = re.compile(r"//[^/\s]*@"), re.compile(r"([?&][^=&\s]+=)[^&\s]+")

Report = dict[str, list[Finding]]  # by area


@click.command(help=__doc__)
@as_json
def command(as_json: bool) -> int:
    """Check everything, and print."""
    report = {area: [redacted(each) for each in own] for area, own in examine().items()}
    everything = [each for own in report.values() for each in own]
    if as_json:
        found = {area: [asdict(each) for each in own] for area, own in report.items()}
        print(json.dumps(found, indent=2))
    elif is_quiet():
        _show([each for each in everything if each.state != OK])
    else:
        for area, own in report.items():
            print(area)
            _show(own)
        print(f"\n{_verdict(each.state for each in everything)}")
    return FAILED if any(each.state == FAILS for each in everything) else DONE


def redacted(finding: Finding) -> Finding:
    """Return a finding whose addresses show no passwords and tokens: it may be sent to others."""
    found, remedy = (
        QUERY.sub(r"\1…", LOGIN.sub("//…@", text)) for text in (finding.found, finding.remedy)
    )
    return replace(finding, found=found, remedy=remedy)


def examine() -> Report:
    """Return the findings by area; where a package that a check imports is missing, of packages."""
    try:
        return _examine()
    except ModuleNotFoundError as e:
        from pipeline.cli.doctor.packages import SET_UP, packages, python

        found = "cannot be imported, and without it nothing else can be looked at"
        return {"environment": [python(), *packages(), Finding(str(e.name), FAILS, found, SET_UP)]}


def _examine() -> Report:
    """Return the findings by area; without a valid params.yaml, those that need none."""
    from pipeline.cli.doctor.environment import environment
    from pipeline.core.params import PARAMS, load_params

    report = {"environment": list(environment())}
    try:
        params = load_params()
    except ParamsError as e:
        failing = Finding(str(PARAMS), FAILS, " ".join(str(e).split()), f"edit {PARAMS}")
        return {"parameters": [failing], **report}
    variants = Finding(str(PARAMS), OK, f"valid, {len(params.variants)} variants")
    own = {area: list(check(params)) for area, check in _checks().items()}
    return {"parameters": [variants], **report, **own}


def _checks() -> "dict[str, Callable[[Params], Iterator[Finding]]]":
    from pipeline.cli.doctor.backends import backends
    from pipeline.cli.doctor.data import data
    from pipeline.cli.doctor.store import store

    return {"backends": backends, "data": data, "mlflow": store}


def _show(findings: Iterable[Finding]) -> None:
    """Print a line per finding, and one for what to do; long ones are broken at the terminal."""
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.text_table import console

    table = Table.grid(padding=(0, 1))
    for each in findings:
        table.add_row(
            Text(f"  {each.state:<8}", style=COLORS[each.state]), f"{each.subject}: {each.found}"
        )
        if each.remedy:
            table.add_row("", f"→ {each.remedy}")
    console().print(table)


def _verdict(states: Iterable[str]) -> str:
    found = list(states)
    if FAILS in found:
        return f"the pipeline cannot run as it is configured: see `fails` ({found.count(FAILS)})"
    if WARNING in found:
        return f"the pipeline can run, with warnings ({found.count(WARNING)})"
    return "the pipeline can run"
