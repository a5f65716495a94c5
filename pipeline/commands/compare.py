"""Compare all variants, levels and precisions in a table.

One line per engine that was timed, and per graph that no backend timed; the fastest first. Marked
are `>` the recommendation and `*` the Pareto front: on its backend nothing is faster without being
less accurate. `out` counts the blocks that the network lacks, `lost` the points of validation
accuracy to the most accurate whole network, `×` how many times as fast as that one it is, `p50` is
at the largest batch size. A narrow terminal gets fewer columns; a pipe gets them all.

examples:
  python -m pipeline compare                              the 30 fastest
  python -m pipeline compare --front                      those worth a choice
  python -m pipeline compare --by accuracy --top 5
  python -m pipeline compare --variant 'lacoot*' dense --precision fp32 int8
  python -m pipeline compare --backend onnxruntime --by size --top 0
  python -m pipeline compare --csv > variants.csv         all columns, for a spreadsheet
  python -m pipeline compare --json | jq '.[] | select(.front)'

It reads reports/summary.json, which `python -m pipeline repro` writes.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from pipeline.commands import DONE
from pipeline.commands.arguments import count
from pipeline.comparison import ORDERS, Entry, entries, matching, read_summary
from pipeline.failures import failure_lines
from pipeline.text_table import Column, styled, table, terminal_width

FILTERS = ("variant", "precision", "backend")


def _optional(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


COLUMNS = [
    Column("", lambda e: (">" if e.recommended else " ") + ("*" if e.front else " "), left=True),
    Column("variant", lambda e: e.variant, left=True),
    Column("level", lambda e: str(e.level)),
    Column("out", lambda e: str(e.removed), rank=2),
    Column("precision", lambda e: e.precision, left=True),
    Column("backend", lambda e: e.backend or "not timed", rank=3, left=True),
    Column("val %", lambda e: f"{e.val_accuracy_pct:.2f}"),
    Column("lost", lambda e: _optional(e.lost_points, 2), rank=1),
    Column("test %", lambda e: f"{e.test_accuracy_pct:.2f}", rank=4),
    Column("p50 ms", lambda e: _optional(e.p50_ms, 2)),
    Column("×", lambda e: _optional(e.speedup, 2), rank=1),
    Column("params k", lambda e: f"{e.params / 1e3:.0f}", rank=6),
    Column("MMACs", lambda e: f"{e.macs / 1e6:.2f}", rank=5),
    Column("kB", lambda e: f"{e.file_bytes / 1e3:.0f}", rank=7),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take order, filters and form."""
    parser.add_argument("--by", choices=ORDERS, default="latency", help="best first")
    for name in FILTERS:
        parser.add_argument(
            f"--{name}", nargs="+", metavar="NAME", help=f"only such {name}s; * matches anything"
        )
    parser.add_argument("--front", action="store_true", help="only the Pareto front")
    parser.add_argument("--top", type=count, help="lines; 0: all (default: 30 of the table)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of objects")
    form.add_argument("--csv", action="store_true", help="comma-separated values")


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for."""
    rows, recommendation = read_summary()
    everything = found = entries(rows, recommendation)
    for name in FILTERS:
        if patterns := getattr(arguments, name):
            known = dict.fromkeys(value for e in everything if (value := getattr(e, name)))
            found = matching(found, name, patterns, list(known))
    if arguments.front:
        found = [entry for entry in found if entry.front]
    found = sorted(found, key=ORDERS[arguments.by])
    if arguments.json:
        print(json.dumps([asdict(entry) for entry in _first(found, arguments.top or 0)], indent=2))
    elif arguments.csv:
        _write_csv(_first(found, arguments.top or 0))
    else:
        _show(found, 30 if arguments.top is None else arguments.top)
        _explain(recommendation["reason"], arguments.quiet)
    return DONE


def _first(found: Sequence[Entry], top: int) -> Sequence[Entry]:
    return found[:top] if top else found


def _write_csv(found: Iterable[Entry]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Entry)])
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in found)


def _show(found: Sequence[Entry], top: int) -> None:
    shown = _first(found, top)
    lines, left_out = table(COLUMNS, shown, terminal_width())
    print(styled(lines[0], "dim"))
    for line, entry in zip(lines[1:], shown, strict=True):
        print(styled(line, "green") if entry.recommended else _on_front(line, entry))
    notes = []
    if len(shown) < len(found):
        notes.append(f"{len(shown)} of {len(found)} lines (--top 0: all)")
    if left_out:
        notes.append(f"no room for {', '.join(left_out)} (a pipe or --csv has them)")
    if notes:
        print(styled("; ".join(notes), "dim"))


def _on_front(line: str, entry: Entry) -> str:
    return styled(line, "bold") if entry.front else line


def _explain(reason: str, quiet: bool) -> None:
    if not quiet:
        print(f"\n> recommended: {reason}\n* Pareto front of its backend")
        for line in failure_lines():
            print(styled(line, "red"))
