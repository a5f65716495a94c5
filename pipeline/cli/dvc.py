"""DVC from a program: the stages that dvc.yaml describes, and its command as a process."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from models.errors import ArtifactError
from pipeline.core.artifacts import read_json, read_yaml
from pipeline.core.params import load_params
from pipeline.core.stage_script import run_stage

DVC_YAML = Path("dvc.yaml")
RWLOCK = Path(".dvc/tmp/rwlock")  # what DVC's processes read and write just now

Changes = Sequence[Any]  # of one stage, by DVC: {"changed deps": …}, {"changed outs": …}, …


@dataclass(frozen=True)
class Stages:
    """Names of the stages, each after those whose outputs it reads."""

    before: list[str]  # of all variants at once, and read by a variant's
    each: list[str]  # once per variant
    after: list[str]  # over all variants


def described_stages() -> Stages:
    """Return the stages of dvc.yaml.

    Raises:
        ArtifactError: there is no dvc.yaml here, or it is not valid YAML.
    """
    try:
        return in_order(read_yaml(DVC_YAML)["stages"])
    except FileNotFoundError as e:
        raise ArtifactError(f"{DVC_YAML} is missing; run from the folder that holds it") from e
    except (yaml.YAMLError, KeyError, TypeError) as e:
        raise ArtifactError(f"{DVC_YAML} does not describe stages: {e}") from e


def in_order(stages: Mapping[str, Any]) -> Stages:
    """Return the order of what dvc.yaml describes under `stages`."""
    described = {name: stage.get("do", stage) for name, stage in stages.items()}
    makers = {out: name for name, stage in described.items() for out in _outs(stage)}
    reads = {
        name: {
            maker
            for dep in stage.get("deps", [])
            for out, maker in makers.items()
            if Path(out).is_relative_to(dep) or Path(dep).is_relative_to(out)
        }
        for name, stage in described.items()
    }
    order = list(TopologicalSorter(reads).static_order())
    each = [name for name in order if "foreach" in stages[name]]
    shared = [name for name in order if name not in each]
    read = {dep for name in each for dep in reads[name]}
    return Stages(
        before=[name for name in shared if name in read],
        each=each,
        after=[name for name in shared if name not in read],
    )


def _outs(stage: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a stage writes; an entry with options is a map of one key."""
    for kind in ("outs", "metrics"):
        for out in stage.get(kind, []):
            yield out if isinstance(out, str) else next(iter(out))


def dvc_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of ``dvc`` as it is installed beside this Python."""
    return [sys.executable, "-m", "dvc", *arguments]


def dvc_environment() -> Mapping[str, str]:
    """Return the environment in which stages, called ``python -m …``, are run by this Python.

    DVC wants the name of its user, also where the system has none for it.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"USER": str(os.getuid()), **os.environ, "PATH": path}


def remove_damaged_lock() -> None:
    """Remove DVC's record of what its processes use where a killed one left it half written.

    DVC itself would refuse to start. A record that can be read stays: DVC takes out of it what has
    ended.
    """
    if not RWLOCK.exists():
        return
    with RWLOCK.with_name("rwlock.lock").open("a") as guard:  # a DVC that writes holds it
        fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            read_json(RWLOCK)
        except ArtifactError:
            RWLOCK.unlink(missing_ok=True)


def changed_stages(targets: Sequence[str] = ()) -> Mapping[str, Changes]:
    """Return what `dvc status` prints of the stages that are not up to date.

    Raises:
        ArtifactError: DVC fails, with its reason.
    """
    remove_damaged_lock()
    answer = subprocess.run(
        dvc_command(["status", "--json", *targets]),
        env=dvc_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["no reason given"]
        raise ArtifactError(f"`dvc status` fails: {lines[0].removeprefix('ERROR: ')}")
    changed: Mapping[str, Changes] = json.loads(answer.stdout)
    return changed


def before_repro() -> None:
    """Say at once what is wrong with params.yaml, and clear what a killed DVC left."""
    load_params()
    remove_damaged_lock()


if __name__ == "__main__":
    run_stage(before_repro)
