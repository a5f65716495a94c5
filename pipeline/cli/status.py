"""Say how far every variant is, and what to do next.

A variant is `up to date`; `changed`: at least one of its stages would run again, for the reason
shown; `never run`, or not to its end; or `failed`, as a sweep recorded it. A stage that waits for a
changed one is not counted: it runs only if what it reads comes out different. With names of
variants there is a line for each of their stages.

examples:
  python -m pipeline status                  a line per variant
  python -m pipeline status lacoot dense     a line per stage of theirs
  python -m pipeline status --json           all of it, for a program
  dvc repro                                  run what is not up to date

DVC compares every file that a stage reads: seconds for a few variants, a minute or more for a
hundred.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import click

from pipeline.bundle.aging import old_bundles
from pipeline.cli.arguments import as_json
from pipeline.cli.dvc import Changes, changed_stages, described_stages
from pipeline.cli.text_table import Column, print_table
from pipeline.core.params import load_params
from pipeline.core.progress import is_quiet
from pipeline.core.sources import record_sources
from pipeline.report.failures import Failure, still_failed
from pipeline.report.tracking.dvc_lock import locked_stages
from pipeline.report.tracking.store import TrackingError, store_in_words, store_uri

UP_TO_DATE, CHANGED, NEVER_RUN, FAILED = "up to date", "changed", "never run", "failed"
WORST_FIRST = (FAILED, CHANGED, NEVER_RUN, UP_TO_DATE)
COLORS = {UP_TO_DATE: "green", CHANGED: "yellow", NEVER_RUN: "yellow", FAILED: "red"}
SHARED = "(all variants)"
SHOWN_CAUSES = 3


@dataclass(frozen=True)
class StageStatus:
    """The state of one stage, and what made it so."""

    stage: str  # as dvc.yaml calls it
    state: str
    why: str = ""


Found = Mapping[str, Sequence[StageStatus]]  # by variant; `SHARED` has the stages of no single one


@click.command(help=__doc__)
@click.argument("variants", nargs=-1, metavar="[VARIANT…]")
@as_json
def command(variants: Sequence[str], as_json: bool) -> None:
    """Ask DVC, and print."""
    params = load_params()
    for variant in variants:
        params.variant(variant)
    record_sources(params)  # DVC sees them where they are recorded
    found = look(variants) if variants else look(list(params.variants), whole=True)
    store, old = _store(params.name), old_bundles()
    if as_json:
        stages = {variant: [asdict(each) for each in own] for variant, own in found.items()}
        bundles = [bundle._asdict() for bundle in old]
        print(json.dumps({"stages": stages, "store": store, "old_bundles": bundles}, indent=2))
        return
    if variants:
        _print_stages([(name, each) for name, own in found.items() for each in own])
    else:
        _print_variants(found)
    for bundle in old:
        print(f"{bundle.folder} is of an older network; `{bundle.remedy}` makes it anew")
    if not is_quiet():
        print(f"\nMLflow: {store}\nnext: {_next(found)}")


def look(variants: Sequence[str], *, whole: bool = False) -> Found:
    """Return the states of these variants' stages; of the `whole` project also of the others."""
    stages, locked, failures = described_stages(), locked_stages(), still_failed(variants)
    ended = [f"{stage}@{name}" for name in variants for stage in stages.each]
    ended = [address for address in ended if address in locked]
    changed = changed_stages([] if whole else ended) if whole or ended else {}  # of no target: all

    def status(stage: str, address: str) -> StageStatus:
        return stage_status(stage, changed.get(address, []), has_run=address in locked)

    found = {
        name: with_failure(
            [status(stage, f"{stage}@{name}") for stage in stages.each], failures.get(name)
        )
        for name in variants
    }
    if not whole:
        return found
    return {SHARED: [status(name, name) for name in (*stages.before, *stages.after)], **found}


def stage_status(stage: str, changes: Changes, *, has_run: bool) -> StageStatus:
    """Return the state of a stage.

    Args:
        stage: its name in dvc.yaml.
        changes: as DVC lists them.
        has_run: dvc.lock has it, so it has ended at least once.
    """
    if not has_run:
        return StageStatus(stage, NEVER_RUN)
    causes = sorted(dict.fromkeys(_causes(changes)), key=lambda each: not each.startswith("param "))
    if not causes:
        return StageStatus(stage, UP_TO_DATE)
    more = f" and {len(causes) - SHOWN_CAUSES} more" if len(causes) > SHOWN_CAUSES else ""
    return StageStatus(stage, CHANGED, ", ".join(causes[:SHOWN_CAUSES]) + more)


def _causes(changes: Changes) -> Iterator[str]:
    """Yield what changed: parameters, inputs and outputs, the command."""
    for change in changes:
        if change == "changed command":
            yield "its command"
        elif isinstance(change, Mapping):
            for path, how in (entry for paths in change.values() for entry in paths.items()):
                if isinstance(how, Mapping):  # keys of params.yaml
                    yield from (f"param {key}" for key in how)
                else:
                    yield f"{path} {how}"


def with_failure(found: Sequence[StageStatus], failure: Failure | None) -> list[StageStatus]:
    """Mark the stage in which a variant failed; the first to be run where that is no stage's name.

    It is not marked where DVC knows it to be done, as `bundle` may be, which leaves no metrics.
    """
    left = [each.stage for each in found if each.state != UP_TO_DATE]
    if failure is None or not left:
        return list(found)
    named = failure.stage in {each.stage for each in found}
    where = failure.stage if named else left[0]
    return [
        StageStatus(where, FAILED, failure.reason) if each.stage == where in left else each
        for each in found
    ]


def _store(name: str) -> str:
    try:
        return store_in_words(store_uri(), name)
    except TrackingError as e:
        return str(e)


def _print_stages(items: Sequence[tuple[str, StageStatus]]) -> None:
    columns = [
        Column("variant", lambda item: item[0], left=True),
        Column("stage", lambda item: item[1].stage, left=True),
        Column("state", lambda item: item[1].state, left=True),
        Column("why", lambda item: item[1].why, left=True),
    ]
    print_table(columns, items, lambda item: COLORS[item[1].state])


def _print_variants(found: Found) -> None:
    """Print for each variant its first stage in the worst state, and how many are done."""
    worst = {
        name: min(own, key=lambda each: WORST_FIRST.index(each.state))
        for name, own in found.items()
    }
    columns = [
        Column("variant", lambda name: name, left=True),
        Column("state", lambda name: worst[name].state, left=True),
        Column("done", lambda name: _done(found[name])),
        Column("stage", lambda name: _stage(worst[name]), left=True),
        Column("why", lambda name: worst[name].why, left=True),
    ]
    print_table(columns, list(found), lambda name: COLORS[worst[name].state])


def _stage(worst: StageStatus) -> str:
    return "" if worst.state == UP_TO_DATE else worst.stage


def _done(own: Sequence[StageStatus]) -> str:
    return f"{sum(each.state == UP_TO_DATE for each in own)} of {len(own)}"


def _next(found: Found) -> str:
    states = {each.state for own in found.values() for each in own}
    if FAILED in states:
        return "correct what failed, then run `python -m pipeline sweep`, or `dvc repro`"
    if states - {UP_TO_DATE}:
        return "`dvc repro` runs what is not up to date"
    return "all is up to date: python -m pipeline compare"
