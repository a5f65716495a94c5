"""Say how far every variant is, and what to do next.

A variant is `up to date`; `changed`: at least one of its stages would run again, for the reason
told; `never run`, or not to its end; or `failed`, as a sweep recorded it. A stage that waits for a
changed one is not counted: it runs only if what it reads comes out different. With names of
variants there is a line for each of their stages.

examples:
  python -m pipeline status                  a line per variant
  python -m pipeline status lacoot dense     a line per stage of theirs
  python -m pipeline status --json           all of it, for a program
  python -m pipeline repro                   run what is not up to date

DVC compares every file that a stage reads: seconds for a few variants, a minute or more for a
hundred.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pipeline.commands import DONE
from pipeline.dvc_stages import described_stages, locked_stages, variant_stages
from pipeline.failures import still_failed
from pipeline.params import load_params
from pipeline.standing import (
    CHANGED,
    FAILED,
    NEVER_RUN,
    UP_TO_DATE,
    Standing,
    ask_dvc,
    standing,
    summary,
    with_failure,
)
from pipeline.store import TrackingError, store_uri
from pipeline.store_state import store_in_words
from pipeline.text_table import Column, styled, table, terminal_width

COLORS = {UP_TO_DATE: "green", CHANGED: "yellow", NEVER_RUN: "yellow", FAILED: "red"}
SHARED = "(all variants)"
MANY = 12  # variants that are up to date are lines of their own up to here

Found = Mapping[str, Sequence[Standing]]  # by variant; `SHARED` has the stages of no single one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take names of variants and the form."""
    parser.add_argument("variant", nargs="*", help="names under `variants`; none: an overview")
    parser.add_argument("--json", action="store_true", help="an object by variant and stage")


def run(arguments: argparse.Namespace) -> int:
    """Ask DVC, and print."""
    params = load_params()
    for variant in arguments.variant:
        params.variant(variant)
    found = look(arguments.variant or list(params.variants), whole=not arguments.variant)
    store = _store(params.name)
    if arguments.json:
        print(json.dumps({"stages": _as_json(found), "store": store}, indent=2))
        return DONE
    if arguments.variant:
        _print_lines([(name, each) for name, own in found.items() for each in own])
    else:
        _print_overview(found)
    if not arguments.quiet:
        print(f"\nMLflow: {store}\nnext: {_next(found)}")
    return DONE


def look(variants: Sequence[str], *, whole: bool) -> Found:
    """Return where the stages of these variants are; of the `whole` project also the others."""
    each, locked, failures = variant_stages(), locked_stages(), still_failed(variants)
    own = [f"{stage}@{variant}" for variant in variants for stage in each]
    ended = [name for name in own if name in locked]
    told = ask_dvc([] if whole else ended) if whole or ended else {}  # of no target it tells all
    found = {
        variant: with_failure(
            [standing(stage, variant, told, f"{stage}@{variant}" in locked) for stage in each],
            failures.get(variant),
        )
        for variant in variants
    }
    if not whole:
        return found
    others = [name for name in described_stages() if name not in each]
    return {SHARED: [standing(name, None, told, name in locked) for name in others], **found}


def _as_json(found: Found) -> dict[str, list[dict[str, str]]]:
    return {variant: [asdict(each) for each in own] for variant, own in found.items()}


def _store(name: str) -> str:
    try:
        return store_in_words(store_uri(), name)
    except TrackingError as e:
        return str(e)


def _print_overview(found: Found) -> None:
    fine = [v for v, own in found.items() if summary(own).state == UP_TO_DATE and v != SHARED]
    folded = set(fine) if len(fine) > MANY else set()
    items = [(variant, summary(own)) for variant, own in found.items() if variant not in folded]
    _print_lines(items, {variant: _count(own) for variant, own in found.items()})
    if folded:
        print(styled(f"and {len(folded)} variants are up to date", "green"))


def _count(own: Sequence[Standing]) -> str:
    return f"{sum(each.state == UP_TO_DATE for each in own)} of {len(own)}"


def _print_lines(
    items: Sequence[tuple[str, Standing]], counts: Mapping[str, str] | None = None
) -> None:
    columns = [
        Column("variant", lambda item: item[0], left=True),
        Column("state", lambda item: item[1].state, left=True),
        *([Column("done", lambda item: counts[item[0]])] if counts else []),
        Column("stage", lambda item: _stage(item[1], whole=counts is not None), left=True),
        Column("why", lambda item: item[1].why, left=True),
    ]
    lines, _ = table(columns, items, None)
    width = terminal_width()
    print(styled(lines[0][:width], "dim"))
    for line, (_, each) in zip(lines[1:], items, strict=True):
        print(styled(line[:width], COLORS[each.state]))


def _stage(each: Standing, *, whole: bool) -> str:
    return "" if whole and each.state == UP_TO_DATE else each.stage


def _next(found: Found) -> str:
    states = {each.state for own in found.values() for each in own}
    if FAILED in states:
        return (
            "mend what failed, then run the sweep again, or `python -m pipeline repro` without it"
        )
    if states - {UP_TO_DATE}:
        return "python -m pipeline repro runs what is not up to date"
    return "all is up to date: python -m pipeline compare"
