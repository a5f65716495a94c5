"""Stages on a full disk and on a read-only one: whole results or none, then all well."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_server import StageServer
from undisturbed import (
    FULL,
    STAGES,
    Undisturbed,
    contents,
    leftovers,
    require_nothing_half,
    require_one_message,
    require_the_same,
)

SOME = list(STAGES) if FULL else ["train", "bundle"]
TIMES = 3 if FULL else 1
PAGE = 4096  # bytes that a file takes at least


def random_of(*what: object) -> random.Random:
    return random.Random(" ".join(map(str, what)))


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
@pytest.mark.parametrize("stage", SOME)
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
@pytest.mark.parametrize("stage", SOME)
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
