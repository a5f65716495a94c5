"""Backends' packages, imported when they are used; what those of the CPU have in common."""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.core.params import Build

STDERR = 2


def import_package(name: str, fix: str) -> Any:
    """Import a backend's package.

    Raises:
        BackendUnavailable: it is not installed, with the fix.
        BackendError: it is installed and cannot be loaded, as where the memory is short. Going on
            without it would build all engines of the others anew, and lack its own.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as e:
        if isinstance(e, ModuleNotFoundError) and e.name == name:
            raise BackendUnavailable(f"{name} is not installed ({e}); {fix}") from e
        reason = " ".join(str(e).split())
        raise BackendError(
            f"{name} is installed and cannot be loaded ({reason}); give it what it lacks, such as "
            "memory, or install it again; to go on without it: pip uninstall it"
        ) from e


def read(path: Path) -> bytes:
    """Return a file's bytes; `ArtifactError` where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Yield a list that holds the lines written to standard error, once the block has ended.

    It is the process's standard error: what other threads print meanwhile is caught too. If the
    block raises, the lines are printed after all.
    """
    lines: list[str] = []
    sys.stderr.flush()
    original = os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(original, STDERR)
            os.close(original)
            file.seek(0)
            text = file.read().decode(errors="replace")
            lines.extend(line for line in text.splitlines() if line.strip())


class CpuBackend:
    """A backend that builds and runs wherever its package is installed."""

    package: str
    fix: str  # where the package is not installed
    tolerance = 1e-3
    strongly_typed = False

    def version(self) -> str:
        """Return the version of the package."""
        return str(import_package(self.package, self.fix).__version__).partition("-")[0]

    def check(self) -> None:
        """Raise `BackendUnavailable` where the package is not installed."""
        import_package(self.package, self.fix)

    def runnable(self, options: Build) -> None:
        """Do nothing: there is always a CPU."""
