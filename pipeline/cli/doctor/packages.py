"""Are this the Python and the packages that requirements.lock describes?

Of what may be missing, `packaging` alone is imported here.
"""

import platform
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding

PYTHON = (3, 11)
LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
SET_UP = "make setup"


def python() -> Finding:
    """Return whether this Python is new enough."""
    version = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < PYTHON:
        return Finding("python", FAILS, version, "install Python 3.11 or newer, then " + SET_UP)
    return Finding("python", OK, version)


def packages() -> Iterator[Finding]:
    """Compare what is installed with the pins for this system: what Shoal needs, then the rest."""
    if not LOCK.exists() or not PROJECT.exists():
        yield Finding("packages", WARNING, f"{LOCK} is not here", "run from Shoal's own folder")
        return
    here = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    installed = {canonicalize_name(name): version for name, version in here.items()}
    pins = {canonicalize_name(pin.name): pin for pin in _pins()}
    missing = [name for name in pins if name not in installed]
    needed = [name for name in missing if name in _needed()]
    other = [
        f"{name} {installed[name]} (not {str(pin.specifier).removeprefix('==')})"
        for name, pin in pins.items()
        if name in installed and not pin.specifier.contains(installed[name], prereleases=True)
    ]
    if needed:
        yield Finding("packages", FAILS, f"missing: {_listed(needed)}", SET_UP)
    if other:
        yield Finding("packages", WARNING, f"of another version: {_listed(other)}", SET_UP)
    if extras := [name for name in missing if name not in needed]:
        found = f"missing, for tests or extras: {_listed(extras)}"
        yield Finding("packages", WARNING, found, SET_UP)
    if not missing and not other:
        yield Finding("packages", OK, f"{len(pins)} as pinned in {LOCK}")


def _pins() -> Iterator[Requirement]:
    """Yield the pins of the lock file that are for this system and Python."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                yield pin


def _needed() -> set[str]:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
