"""Every call of a stage that opens, writes, flushes or renames a file fails, or is its last one.

In `make test` one call of every second stage fails, one of the others is the last; `make faults`
tries all, but of those by which SQLite writes MLflow's store a dozen of each operation.
"""

import errno
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest
from stage_server import KILLED, FailingCall, Outcome, StageServer
from undisturbed import (
    FULL,
    STAGES,
    Undisturbed,
    contents,
    remove,
    require_nothing_half,
    require_the_same,
)

ERRORS = {"open": errno.EIO, "write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EIO}
STORE, OF_A_KIND = "mlflow.db", 12
PARTS = range(8) if FULL else range(1)


@pytest.fixture(autouse=True)
def _calls_can_fail(server: StageServer) -> None:
    if not server.fails_calls:
        pytest.skip("there is no compiler here (cc) for what makes calls fail")


def run(project: Path, stage: str, server: StageServer, call: FailingCall) -> Outcome:
    return server.run(project, STAGES[stage].name, *STAGES[stage].arguments, failing=call)


def chosen(
    part: int, stage: str, base: Undisturbed, server: StageServer, folder: Path
) -> list[tuple[int, str]]:
    """Return number and operation of the calls to try, of those that a stage makes."""
    project = base.copy(folder, stage)
    assert run(project, stage, server, FailingCall(0, 0)).code == 0
    calls = list(enumerate(server.calls(), 1))
    remove(project)
    tried = list(without_most_of_the_store(calls))[part :: len(PARTS)] if FULL else calls
    numbered = [(number, call.split()[0]) for number, call in tried]
    return numbered if FULL else [random.Random(f"{stage} {part}").choice(numbered)]


def without_most_of_the_store(calls: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield calls; of the hundreds by which a database keeps its promises, some of each kind."""
    of_store: dict[str, list[int]] = defaultdict(list)
    for number, call in calls:
        if STORE in call:
            of_store[call].append(number)
    kept = {n for numbers in of_store.values() for n in numbers[:: 1 + len(numbers) // OF_A_KIND]}
    yield from (each for each in calls if STORE not in each[1] or each[0] in kept)


def told(ended: Outcome, stage: str, base: Undisturbed, project: Path) -> Iterator[str]:
    """Yield what is wrong with how a stage ended of whose calls one failed."""
    last = (ended.errors.splitlines() or [""])[-1]
    if "Traceback" in ended.errors:
        yield ended.errors
    elif ended.code == 1 and not last.startswith("error: "):
        yield f"no message: {ended.errors}"
    elif ended.code not in (0, 1):
        yield f"ended with {ended.code}: {ended.errors}"
    elif ended.code == 0 and contents(project, stage) != contents(base.root, stage):
        yield f"ended well with another result: {ended.errors}"


class Fresh:
    """A project before a stage runs, copied anew only after something was written into it.

    Where a fault left every file as it was, the next run is the undisturbed one, and is not made.
    """

    def __init__(self, base: Undisturbed, stage: str) -> None:
        self.base, self.stage = base, stage
        self.root: Path | None = None
        self.before: dict[str, tuple[int, int, int]] = {}

    def project(self, folder: Path) -> Path:
        if self.root is not None and not self.is_untouched():
            remove(self.root)
            self.root = None
        if self.root is None:
            self.root = self.base.copy(folder / "project", self.stage)
            self.before = self._files()
        return self.root

    def is_untouched(self) -> bool:
        return self._files() == self.before

    def _files(self) -> dict[str, tuple[int, int, int]]:
        assert self.root is not None
        found = {str(path): path.lstat() for path in self.root.rglob("*")}
        return {
            name: (0, 0, 0) if S_ISDIR(s.st_mode) else (s.st_ino, s.st_size, s.st_mtime_ns)
            for name, s in found.items()
        }


@pytest.mark.fault("call that fails: open, write, fsync or rename")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stage", list(STAGES) if FULL else list(STAGES)[::2])
def test_a_call_that_fails_is_told_and_the_next_run_ends_the_same(
    stage: str,
    part: int,
    base: Undisturbed,
    server: StageServer,
    tmp_path: Path,
    record_property: Any,
) -> None:
    calls, fresh = chosen(part, stage, base, server, tmp_path / "first"), Fresh(base, stage)
    wrong = []
    for number, operation in calls:
        project = fresh.project(tmp_path)
        ended = run(project, stage, server, FailingCall(number, ERRORS[operation]))
        failed = server.calls()[number - 1 : number]
        wrong += [(number, failed, what) for what in told(ended, stage, base, project)]
        if not fresh.is_untouched():
            wrong += afterwards(project, base, stage, server, (number, failed, ended.errors))
    record_property("faults", len(calls))
    assert wrong == []


@pytest.mark.fault("`kill -9` of a stage right after a call")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stage", list(STAGES) if FULL else list(STAGES)[1::2])
def test_a_killed_stage_leaves_nothing_half_and_ends_the_same(
    stage: str,
    part: int,
    base: Undisturbed,
    server: StageServer,
    tmp_path: Path,
    record_property: Any,
) -> None:
    calls, fresh = chosen(part, stage, base, server, tmp_path / "first"), Fresh(base, stage)
    wrong, tried, lost = [], 0, [0.0]
    for number, _ in calls:
        project, started = fresh.project(tmp_path), time.monotonic()
        ended = run(project, stage, server, FailingCall(number, 0))
        ended_at, again_s = time.monotonic(), base.seconds[stage]
        killed = server.calls()[number - 1 : number]
        if ended.code == KILLED:  # else this run made fewer calls
            tried += 1
        elif (ended.code, ended.errors) != (0, ""):
            wrong.append((number, killed, ended.errors))
        if not fresh.is_untouched():
            wrong += afterwards(project, base, stage, server, (number, killed))
            again_s = time.monotonic() - ended_at
        lost.append(ended_at - started + again_s - base.seconds[stage])
    record_property("faults", tried)
    record_property("lost", (stage, base.seconds[stage], max(lost)))
    assert wrong == []


def afterwards(
    project: Path, base: Undisturbed, stage: str, server: StageServer, what: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    """Yield what is wrong with what lies there, or with the next run."""
    try:
        require_nothing_half(project, base, stage)
        require_the_same(project, base, stage, server)
    except (AssertionError, ValueError) as e:
        yield (*what, str(e))
