"""Are this the Python and the packages that requirements.lock describes?

Nothing is imported here that may be missing.
"""

import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from pipeline.checks.finding import FAILS, OK, WARNING, Finding

PYTHON = (3, 11)
LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<marker>\s*;.*)?$")
NAME = re.compile(r"[\w.-]+")
SET_UP = "make setup"


def python() -> Finding:
    """Return whether this Python is new enough."""
    version = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < PYTHON:
        return Finding("python", FAILS, version, "install Python 3.11 or newer, then " + SET_UP)
    return Finding("python", OK, version)


def packages() -> Iterator[Finding]:
    """Compare what is installed with the pins: what Shoal itself needs, then all others.

    A package whose pin has a marker, of another system or Python, may be absent.
    """
    if not LOCK.exists() or not PROJECT.exists():
        yield Finding("packages", WARNING, f"{LOCK} is not here", "run from Shoal's own folder")
        return
    needed = _needed()
    missing, other, right = [], [], 0
    for name, pins in _pins().items():
        installed = _installed(name)
        if installed is None:
            missing += [name] if all(not pin["marker"] for pin in pins) else []
        elif installed not in (versions := [pin["version"] for pin in pins]):
            other.append(f"{name} {installed} (not {' or '.join(versions)})")
        else:
            right += 1
    lacking = [name for name in missing if _normal(name) in needed]
    if lacking:
        yield Finding("packages", FAILS, f"missing: {_listed(lacking)}", SET_UP)
    if other:
        yield Finding("packages", WARNING, f"of another version: {_listed(other)}", SET_UP)
    if extras := [name for name in missing if name not in lacking]:
        yield Finding(
            "packages", WARNING, f"missing, for tests or extras: {_listed(extras)}", SET_UP
        )
    if not (lacking or other or extras):
        yield Finding("packages", OK, f"{right} as pinned in {LOCK}")


def _pins() -> dict[str, list[re.Match[str]]]:
    """Return the pins by package; some have one per version of Python."""
    found: dict[str, list[re.Match[str]]] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if pin := PIN.match(line):
            found.setdefault(pin["name"], []).append(pin)
    return found


def _needed() -> set[str]:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    names = (NAME.match(requirement) for requirement in project["dependencies"])
    return {_normal(name[0]) for name in names if name}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - 5} more" if len(all_names) > 5 else ""
    return ", ".join(all_names[:5]) + more
