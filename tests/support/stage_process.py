"""Run a stage as DVC does: in a process of its own, in a folder with its inputs."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from places import ROOT


def run_stage(
    name: str, *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m stages.<name>`` in `cwd`, warnings as errors; return what came of it."""
    return run_module(f"stages.{name}", *arguments, cwd=cwd, **environment)


def run_module(
    name: str, *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m <name>`` in the same way."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", name, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            DIRECT.open(url, timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"no answer from {url}"
            time.sleep(0.2)
        else:
            return


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
