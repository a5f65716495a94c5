"""Choose what to ship: one engine, by what it may cost and how fast it must be.

Under a latency budget that is the most accurate engine within it; without one, the fastest that
loses no more than allowed. What is not given here is taken from `choose` in params.yaml; `none`
lifts a limit. Accuracy is on validation, p50 latency at the largest batch size, the loss counted in
points from the most accurate whole network.

examples:
  python -m pipeline choose                                    the limits of params.yaml
  python -m pipeline choose --latency-ms 4 --max-drop 1
  python -m pipeline choose --latency-ms none --max-drop 0.5   the fastest within half a point
  python -m pipeline choose --backend tensorrt --json
  python -m pipeline choose --latency-ms 4 -q && echo it fits

It ends with 3 where nothing obeys the limits, and says what comes closest.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, get_args

from pipeline.choice import Candidate, Choice, choose
from pipeline.commands import DONE, NOTHING_FITS
from pipeline.commands.arguments import limit, positive_limit
from pipeline.comparison import read_summary
from pipeline.params import Choose, load_params
from pipeline.params_engines import Backend
from pipeline.rows import Row, blocks_out_told

KEYS = ("latency_budget_ms", "max_accuracy_drop_pct", "backend")  # of `choose` in params.yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the limits; those that are not given are absent from the namespace."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--latency-ms", dest=KEYS[0], type=positive_limit, metavar="MS", help="p50 at most; or none"
    )
    parser.add_argument(
        "--max-drop", dest=KEYS[1], type=limit, metavar="POINTS", help="lost at most; or none"
    )
    parser.add_argument("--backend", choices=get_args(Backend), help="the one to run on")
    parser.add_argument("--json", action="store_true", default=False, help="as an object")


def run(arguments: argparse.Namespace) -> int:
    """Print the choice, why, and the command that ships it."""
    given = {key: value for key, value in vars(arguments).items() if key in KEYS}
    limits = Choose(**(load_params().choose.model_dump() | given))
    rows, _ = read_summary()
    choice = choose(rows, limits)
    if arguments.json:
        print(json.dumps(_as_json(choice, limits), indent=2))
    elif choice.chosen is None:
        print(choice.reason, file=sys.stderr)
    elif arguments.quiet:
        print(choice.chosen.label)
    else:
        _explain(choice, choice.chosen, blocks_out_told(_row_of(rows, choice.chosen)))
    return NOTHING_FITS if choice.chosen is None else DONE


def _as_json(choice: Choice, limits: Choose) -> dict[str, Any]:
    ship = bundle_command(choice.chosen) if choice.chosen else None
    return {**choice.to_json(), "limits": limits.model_dump(), "ship": ship}


def _row_of(rows: Sequence[Row], chosen: Candidate) -> Row:
    key = (chosen.variant, chosen.level, chosen.precision)
    [row] = (row for row in rows if (row["variant"], row["level"], row["precision"]) == key)
    return row


def _explain(choice: Choice, chosen: Candidate, removed: str) -> None:
    print(choice.reason)
    print(f"  blocks out: {removed or 'none'}")
    print(
        f"  validation {chosen.val_accuracy_pct:.2f} %, test {chosen.test_accuracy_pct:.2f} %, "
        f"p50 {chosen.latency_ms:.2f} ms at the largest batch size"
    )
    print(f"to ship it: {bundle_command(chosen)}")


def bundle_command(chosen: Candidate) -> str:
    """Return the command that makes the bundle of a choice."""
    return (
        f"python -m pipeline bundle {chosen.variant} --level {chosen.level} "
        f"--precision {chosen.precision}"
    )
