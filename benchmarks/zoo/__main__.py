"""Collapse one network of every timm family and write what worked to docs/zoo.md.

    python -m benchmarks.zoo                     # all families; goes on where it was stopped
    python -m benchmarks.zoo resnet volo         # these, whatever was measured before
    python -m benchmarks.zoo --processes 2

A family is a module of timm. Of each the smallest network is taken in which at least three blocks
can be removed, with random weights, at the smallest image size at which it runs. Each runs in a
process of its own, with a limit of time and memory; its row is kept under .cache/zoo.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.zoo.row import measure
from benchmarks.zoo.table import table
from pipeline.core.artifacts import CACHE, code_digest, read_json, replace_file, write_json

TARGET = Path("docs/zoo.md")
ROWS = CACHE / "zoo"
TIME_LIMIT_S = 420
MEMORY_LIMIT_BYTES = 14 << 30


def main() -> None:
    """Measure what is missing and write the table."""
    import timm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="modules of timm.models; default: all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        family = arguments.families[0]
        measure(family, partial(write_json, _row_path(family)))
        return
    families = [family for family in timm.list_modules() if timm.list_models(module=family)]
    wanted = arguments.families or [family for family in families if not _is_done(family)]
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.processes)
    with ThreadPoolExecutor(arguments.processes) as pool:
        for number, row in enumerate(pool.map(partial(_supervise, threads), wanted), start=1):
            print(f"{number}/{len(wanted)} {_line(row)}", flush=True)
    rows = [read_json(_row_path(family)) for family in families if _row_path(family).exists()]
    with replace_file(TARGET) as temporary:
        temporary.write_text(table(rows), encoding="utf-8")
    print(f"{len(rows)} rows in {TARGET}")


def _row_path(family: str) -> Path:
    return ROWS / f"{family}.json"


def _is_done(family: str) -> bool:
    """Say whether this code has measured the family already."""
    path = _row_path(family)
    return path.exists() and read_json(path).get("code") == code_digest("collapse")


def _supervise(threads: int, family: str) -> dict[str, Any]:
    """Measure a family in a process of its own, ended when it takes too much."""
    _row_path(family).unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.zoo", "--worker", family],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        ended = _wait(process)
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    row: dict[str, Any] = {"family": family, "step": "start"}
    row |= read_json(_row_path(family)) if _row_path(family).exists() else {}
    if process.returncode:
        row["reason"] = ended or f"exit {process.returncode}: {' '.join(last)}"[:300]
    row |= {"seconds": round(time.monotonic() - started, 1), "code": code_digest("collapse")}
    write_json(_row_path(family), row)
    return row


def _wait(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process; end it when it takes too much, and say of what."""
    limit = time.monotonic() + TIME_LIMIT_S
    while process.poll() is None:
        time.sleep(0.2)
        ended = ""
        if time.monotonic() > limit:
            ended = f"took more than {TIME_LIMIT_S} s"
        elif _memory_bytes(process.pid) > MEMORY_LIMIT_BYTES:
            ended = f"took more than {MEMORY_LIMIT_BYTES >> 30} GiB of memory"
        if ended:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return ended
    return ""


def _memory_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 where it is gone or there is no /proc."""
    try:
        resident_pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return int(resident_pages) * os.sysconf("SC_PAGE_SIZE")


def _line(row: dict[str, Any]) -> str:
    what = f"{row['family']}: {row.get('name', '')} {row.get('seconds')} s"
    if row.get("reason"):
        return f"{what}  {row['step']}: {row['reason']}"
    return f"{what}  {row['removed']} of {row['blocks']} blocks out, parity {row['parity']:.1e}"


if __name__ == "__main__":
    main()
