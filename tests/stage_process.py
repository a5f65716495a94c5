"""Run a stage as DVC does: in a process of its own, in a folder with its inputs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_stage(
    name: str, *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m stages.<name>`` in `cwd`, warnings as errors; return what came of it."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", f"stages.{name}", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
