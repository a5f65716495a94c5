"""Compare all variants, levels and precisions in a table.

One line per engine that was timed, and per graph that no backend timed; the fastest first. Marked
are `>` the recommendation and `*` the Pareto front: on its backend nothing is faster without being
less accurate. `removed` counts the blocks that the network lacks, `lost` the points of validation
accuracy to the most accurate whole network, `×` how many times as fast as that one it is, `ms` is
the quiet latency at the largest batch size: the 20th percentile of the calls of one run over all.
What was in its short pass alone has a ratio to the run's reference instead, such as `2.10 ref`.
A narrow terminal gets fewer columns; a pipe gets them all.

examples:
  python -m pipeline compare                              the 30 fastest
  python -m pipeline compare --front                      those worth a choice
  python -m pipeline compare --by accuracy --top 5
  python -m pipeline compare --variant 'lacoot*' --variant dense --precision int8
  python -m pipeline compare --backend onnxruntime --by size --top 0
  python -m pipeline compare --csv > variants.csv         all columns, for a spreadsheet
  python -m pipeline compare --json | jq '.[] | select(.front)'

It reads reports/summary.json, which `dvc repro` writes. Where something disturbed the timing, it
says so; with --strict it then ends with 4.
"""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

import click

from pipeline.cli.arguments import as_json, strict
from pipeline.cli.exit_codes import DONE, UNSETTLED
from pipeline.cli.text_table import Column, console, print_table
from pipeline.core.progress import is_quiet
from pipeline.report.comparison import ORDERS, Entry, entries, matching, read_summary
from pipeline.report.failures import failure_lines

TOP = 30  # lines of the table


def _optional(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


COLUMNS = [
    Column("", lambda e: (">" if e.recommended else " ") + ("*" if e.front else " "), left=True),
    Column("variant", lambda e: e.variant, left=True),
    Column("level", lambda e: str(e.level)),
    Column("removed", lambda e: str(e.removed), rank=2),
    Column("precision", lambda e: e.precision, left=True),
    Column("backend", lambda e: e.backend or "not timed", rank=3, left=True),
    Column("val %", lambda e: f"{e.val_accuracy_pct:.2f}"),
    Column("lost", lambda e: _optional(e.lost_points, 2), rank=1),
    Column("test %", lambda e: f"{e.test_accuracy_pct:.2f}", rank=4),
    Column("ms", lambda e: f"{e.ratio:.2f} ref" if e.ratio else _optional(e.latency_ms, 2)),
    Column("×", lambda e: _optional(e.speedup, 2), rank=1),
    Column("params k", lambda e: f"{e.params / 1e3:.0f}", rank=6),
    Column("MMACs", lambda e: f"{e.macs / 1e6:.2f}", rank=5),
    Column("kB", lambda e: f"{e.file_bytes / 1e3:.0f}", rank=7),
]


@click.command(help=__doc__)
@click.option("--by", type=click.Choice(list(ORDERS)), default="latency", help="Best first.")
@click.option("--variant", multiple=True, help="Only such variants; * matches anything.")
@click.option("--precision", multiple=True, help="Only such precisions.")
@click.option("--backend", multiple=True, help="Only such backends.")
@click.option("--front", is_flag=True, help="Only the Pareto front.")
@click.option(
    "--top", type=click.IntRange(min=0), help=f"Lines; 0: all (default: {TOP} of the table)."
)
@strict
@as_json
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
def command(
    by: str,
    front: bool,
    top: int | None,
    strict: bool,
    as_json: bool,
    as_csv: bool,
    **names: Sequence[str],
) -> int:
    """Print what is asked for."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    summary = read_summary()
    found = _matching(entries(summary), names)
    found = sorted((e for e in found if e.front or not front), key=ORDERS[by])
    if as_json:
        print(json.dumps([asdict(entry) for entry in _first(found, top or 0)], indent=2))
    elif as_csv:
        _write_csv(_first(found, top or 0))
    else:
        _show(found, TOP if top is None else top)
        if not is_quiet():
            _explain(summary.recommendation.reason)
    for reason in summary.unsettled:
        print(f"unsettled: {reason}", file=sys.stderr)
    return UNSETTLED if strict and summary.unsettled else DONE


def _matching(everything: Sequence[Entry], names: Mapping[str, Sequence[str]]) -> Sequence[Entry]:
    """Return the entries that have one of the names of every filter that is given."""
    found = everything
    for field, patterns in names.items():
        known = dict.fromkeys(value for e in everything if (value := getattr(e, field)))
        if patterns:
            found = matching(found, field, patterns, list(known))
    return found


def _first(found: Sequence[Entry], top: int) -> Sequence[Entry]:
    return found[:top] if top else found


def _write_csv(found: Iterable[Entry]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Entry)])
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in found)


def _show(found: Sequence[Entry], top: int) -> None:
    shown = _first(found, top)
    without = print_table(COLUMNS, shown, _style)
    notes = []
    if len(shown) < len(found):
        notes.append(f"{len(shown)} of {len(found)} lines (--top 0: all)")
    if without:
        notes.append(f"no room for {', '.join(without)} (a pipe or --csv has them)")
    if notes:
        console().print("; ".join(notes), style="dim")


def _style(entry: Entry) -> str | None:
    if entry.recommended:
        return "green"
    return "bold" if entry.front else None


def _explain(reason: str) -> None:
    print(f"\n> recommended: {reason}\n* Pareto front of its backend")
    for line in failure_lines():
        console().print(line, style="red")
