"""Is this the environment that requirements.lock describes, with the tools and room to work in?"""

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.engines.machine import cpu_name, cuda_devices, cuda_driver, usable_cores

PYTHON = (3, 11)
LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<marker>\s*;.*)?$")
NAME = re.compile(r"[\w.-]+")
FULL_GB, LOW_GB = 0.5, 5.0  # of disk; the default run leaves about 1 GB
LOW_MEMORY_GB = 4.0
SET_UP = "make setup"


def environment() -> Iterator[Finding]:
    """Yield what was found about this machine and its packages."""
    yield _python()
    yield from packages()
    yield _git()
    yield _folder()
    yield disk(shutil.disk_usage(Path()).free)
    yield _machine()
    yield _devices()


def _python() -> Finding:
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


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding("git", WARNING, "is not installed", "install git: runs then name a commit")
    inside = any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))
    if not inside:
        return Finding("git", WARNING, "this is no checkout", "git init: runs then name a commit")
    return Finding("git", OK, "a checkout")


def _folder() -> Finding:
    if not os.access(Path(), os.W_OK):
        return Finding("folder", FAILS, f"{Path.cwd()} cannot be written", "make it writable")
    return Finding("folder", OK, f"{Path.cwd()} can be written")


def disk(free_bytes: int) -> Finding:
    """Return whether there is room for the outputs of stages."""
    free = f"{free_bytes / 1e9:.1f} GB free"
    remedy = "free some; .cache and .dvc/cache can be made again"
    if free_bytes < FULL_GB * 1e9:
        return Finding("disk", FAILS, free, remedy)
    if free_bytes < LOW_GB * 1e9:
        return Finding("disk", WARNING, free, remedy)
    return Finding("disk", OK, free)


def _machine() -> Finding:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    told = f"{cpu_name()}, {usable_cores()} cores, {memory_gb:.1f} GB of memory"
    if memory_gb < LOW_MEMORY_GB:
        return Finding("machine", WARNING, told, "lower train.batch_size if memory runs out")
    return Finding("machine", OK, told)


def _devices() -> Finding:
    devices = cuda_devices()
    if not devices:
        return Finding("devices", OK, "no CUDA device: all runs on the CPU")
    named = ", ".join(
        f"{device.name} (compute capability {device.compute_capability})" for device in devices
    )
    return Finding("devices", OK, f"{named}, driver {cuda_driver()}")
