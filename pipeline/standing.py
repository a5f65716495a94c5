"""How far each stage of each variant is: what DVC knows, and what a sweep left as failed."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import ArtifactError
from pipeline.dvc_stages import dvc_command, dvc_environment
from pipeline.failures import Failure

UP_TO_DATE, CHANGED, NEVER_RUN, FAILED = "up to date", "changed", "never run", "failed"
WORST_FIRST = (FAILED, CHANGED, NEVER_RUN, UP_TO_DATE)
SHOWN_CAUSES = 3
ABSENT = {"deleted", "not in cache"}  # as DVC says it

Told = Sequence[Any]  # what DVC says of a stage: {"changed deps": …}, {"changed outs": …}, …


@dataclass(frozen=True)
class Standing:
    """The state of one stage, and what made it so."""

    stage: str  # as dvc.yaml calls it
    state: str
    why: str = ""


def ask_dvc(targets: Sequence[str] = ()) -> Mapping[str, Told]:
    """Return what `dvc status` says of the stages that are not up to date.

    Raises:
        ArtifactError: DVC cannot tell, with its reason.
    """
    answer = subprocess.run(
        dvc_command(["status", "--json", *targets]),
        env=dvc_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["no reason given"]
        raise ArtifactError(f"`dvc status` cannot tell: {lines[0].removeprefix('ERROR: ')}")
    told: Mapping[str, Told] = json.loads(answer.stdout)
    return told


def standing(stage: str, variant: str | None, told: Mapping[str, Told], run: bool) -> Standing:
    """Return where a stage is.

    Args:
        stage: its name in dvc.yaml.
        variant: None for a stage that is of no single one.
        told: what DVC says.
        run: dvc.lock has it, so it has ended at least once.
    """
    name = f"{stage}@{variant}" if variant else stage
    if not run:
        return Standing(stage, NEVER_RUN)
    causes = list(dict.fromkeys(_causes(told.get(name, []))))
    if not causes:
        return Standing(stage, UP_TO_DATE)
    more = f" and {len(causes) - SHOWN_CAUSES} more" if len(causes) > SHOWN_CAUSES else ""
    return Standing(stage, CHANGED, ", ".join(causes[:SHOWN_CAUSES]) + more)


def with_failure(found: Sequence[Standing], failure: Failure | None) -> list[Standing]:
    """Mark the stage in which a variant failed; the first to be run where that is no stage's name.

    It is not marked where DVC knows it to be done, as `bundle` may be, which leaves no metrics.
    """
    left = [each.stage for each in found if each.state != UP_TO_DATE]
    if failure is None or not left:
        return list(found)
    named = failure.stage in {each.stage for each in found}
    where = failure.stage if named else left[0]
    return [
        Standing(where, FAILED, failure.reason) if each.stage == where in left else each
        for each in found
    ]


def _causes(told: Told) -> Iterator[str]:
    """Yield what changed: parameters first, then code, inputs, and outputs."""
    changes = [entry for entry in told if isinstance(entry, Mapping)]
    deps = {k: v for entry in changes for k, v in entry.get("changed deps", {}).items()}
    outs = {k: v for entry in changes for k, v in entry.get("changed outs", {}).items()}
    for keys in (value for value in deps.values() if isinstance(value, Mapping)):
        yield from (f"param {key}" for key in keys)
    files = {path: state for path, state in deps.items() if not isinstance(state, Mapping)}
    if code := [path for path in files if path.endswith(".py")]:
        yield f"code {code[0]}" + (f" (+{len(code) - 1})" if len(code) > 1 else "")
    if "changed command" in told:
        yield "its command"
    for path, state in [*files.items(), *outs.items()]:
        if path not in code:
            yield f"{path} {'is not here' if state in ABSENT else state}"


def summary(found: Sequence[Standing]) -> Standing:
    """Return the worst of a variant's stages: the first one in that state, and why."""
    return min(found, key=lambda each: WORST_FIRST.index(each.state))
