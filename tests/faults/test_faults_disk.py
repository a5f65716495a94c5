"""Every stage killed, on a full disk and on a read-only one: whole results or none, then all well.

In `make test` each fault is tried once; `make faults` (SHOAL_FAULTS=full) tries more of them.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_server import KILLED, StageServer
from undisturbed import (
    FULL,
    STAGES,
    VARIANT,
    Undisturbed,
    contents,
    leftovers,
    require_one_message,
    tracked,
)

# SQLAlchemy tells MLflow's authors, not us, that one of its loader strategies goes away.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TIMES = 3 if FULL else 1
PAGE = 4096  # bytes that a file takes at least


def random_of(*what: object) -> random.Random:
    return random.Random(" ".join(map(str, what)))


def require_the_same(project: Path, base: Undisturbed, stage: str, server: StageServer) -> None:
    """Run a stage after its fault; it must end as if nothing had been."""
    ended = server.run(project, STAGES[stage].name, *STAGES[stage].arguments)
    assert (ended.code, ended.errors) == (0, "")
    assert contents(project, stage) == contents(base.root, stage)
    assert leftovers(project) == []
    if stage == "track":
        assert tracked(project) == [run for run in tracked(base.root) if run[0] != VARIANT]


def require_nothing_half(project: Path, base: Undisturbed, stage: str) -> None:
    whole, left = contents(base.root, stage), contents(project, stage)
    assert left == {name: whole[name] for name in left}


@pytest.mark.fault("`kill -9` of a stage at a random moment")
@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_leaves_nothing_half_and_ends_the_same(
    stage: str, number: int, base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", stage)
    process = server.start(project, STAGES[stage].name, *STAGES[stage].arguments)
    time.sleep(random_of("kill", stage, number).uniform(0, base.seconds[stage]))
    with contextlib.suppress(ProcessLookupError):  # it was quicker than when undisturbed
        os.kill(process, signal.SIGKILL)
    assert server.wait().code in (KILLED, 0)
    require_nothing_half(project, base, stage)
    require_the_same(project, base, stage, server)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, on which a project is to lie."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "project"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, free_bytes: int) -> Path:
    """Take all room on a disk but so many bytes."""
    state = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(state.f_bavail * state.f_frsize - free_bytes))
    return filler


@pytest.mark.fault("disk that gets full in a stage")
@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_message_and_nothing_half(
    stage: str, number: int, base: Undisturbed, server: StageServer, disk: Path
) -> None:
    project = base.copy(disk, stage)
    share = random_of("full", stage, number).uniform(0, 1)
    pages = sum(
        -(-(base.root / name).stat().st_size // PAGE) for name in contents(base.root, stage)
    )
    filler = fill(project, int(share * pages) * PAGE)
    ended = server.run(project, STAGES[stage].name, *STAGES[stage].arguments)
    require_one_message(ended, stage, "the disk is full")
    require_nothing_half(project, base, stage)
    assert leftovers(project) == []
    filler.unlink()
    require_the_same(project, base, stage, server)


@pytest.mark.fault("read-only disk under a stage")
@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_disk_is_one_message(
    stage: str, base: Undisturbed, server: StageServer, disk: Path
) -> None:
    project = base.copy(disk, stage)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ended = server.run(project, STAGES[stage].name, *STAGES[stage].arguments)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    require_one_message(ended, stage, "read-only")
    require_nothing_half(project, base, stage)
    require_the_same(project, base, stage, server)
