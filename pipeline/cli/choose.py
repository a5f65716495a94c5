"""Choose what to ship: one engine, by what it may cost and how fast it must be.

Under a latency budget that is the most accurate engine within it; without one, the fastest that
loses no more than allowed. What is not given here is taken from `choose` in params.yaml; `none`
lifts a limit. Accuracy is on validation, latency the quiet one (20th percentile) at the largest
batch size, the loss counted in points from the most accurate whole network. Of engines that are
level within the noise, the one that lacks the most blocks is taken and the others are named.

examples:
  python -m pipeline choose                                    the limits of params.yaml
  python -m pipeline choose --latency-ms 4 --max-drop 1
  python -m pipeline choose --latency-ms none --max-drop 0.5   the fastest within half a point
  python -m pipeline choose --backend tensorrt --json
  python -m pipeline choose --latency-ms 4 -q && echo it fits

It ends with 3 where nothing obeys the limits, and says what comes closest. Where something
disturbed the timing, it says so; with --strict it then ends with 4.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import click

from pipeline.cli.arguments import NO_LIMIT, Limit, as_json, strict
from pipeline.cli.exit_codes import DONE, NOTHING_FITS, UNSETTLED
from pipeline.core.params import Backend, Choose, load_params
from pipeline.core.progress import is_quiet
from pipeline.report.comparison import read_summary
from pipeline.report.recommendation import choose
from pipeline.report.records import Candidate, Choice


@click.command(help=__doc__)
@click.option(
    *("--latency-ms", "latency_budget_ms"),
    type=Limit(above_zero=True),
    metavar="MS",
    help="The largest latency; or none.",
)
@click.option(
    *("--max-drop", "max_accuracy_drop_pct"),
    type=Limit(),
    metavar="POINTS",
    help="Points of accuracy that may be lost; or none.",
)
@click.option("--backend", type=click.Choice(get_args(Backend)), help="The one to run on.")
@strict
@as_json
def command(as_json: bool, strict: bool, **given: Any) -> int:
    """Print the choice, why, and the command that ships it."""
    limits = _limits(given)
    summary = read_summary()
    choice = choose(summary.networks, summary.engines, limits)
    if as_json:
        print(json.dumps(_as_json(choice, limits, summary.unsettled), indent=2))
    elif choice.chosen is None:
        print(choice.reason, file=sys.stderr)
    elif is_quiet():
        print(choice.chosen.label)
    else:
        _explain(choice, choice.chosen, summary.network(choice.chosen.network).removed_text)
    for reason in summary.unsettled:
        print(f"unsettled: {reason}", file=sys.stderr)
    if choice.chosen is None:
        return NOTHING_FITS
    return UNSETTLED if strict and summary.unsettled else DONE


def _limits(given: dict[str, Any]) -> Choose:
    """Return the limits of params.yaml with those given laid over them."""
    known = {key: value for key, value in given.items() if value is not None}
    lifted = {key: None if value == NO_LIMIT else value for key, value in known.items()}
    return Choose(**(load_params().choose.model_dump() | lifted))


def _as_json(choice: Choice, limits: Choose, unsettled: Sequence[str]) -> dict[str, Any]:
    ship = bundle_command(choice.chosen) if choice.chosen else None
    facts = {"limits": limits.model_dump(), "ship": ship, "unsettled": unsettled}
    return asdict(choice) | facts


def _explain(choice: Choice, chosen: Candidate, removed: str) -> None:
    print(choice.reason)
    print(f"  removed blocks: {removed or 'none'}")
    print(
        f"  validation {chosen.val_accuracy_pct:.2f} %, test {chosen.test_accuracy_pct:.2f} %, "
        f"{chosen.latency_ms:.2f} ms at the largest batch size"
    )
    print(f"to ship it: {bundle_command(chosen)}")


def bundle_command(chosen: Candidate) -> str:
    """Return the command that makes the bundle of a choice."""
    return (
        f"python -m pipeline bundle {chosen.variant} --level {chosen.level} "
        f"--precision {chosen.precision}"
    )
