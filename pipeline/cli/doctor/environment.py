"""Has this machine the packages, tools, devices and room to work with?"""

import getpass
import os
import shutil
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

from models.errors import ArtifactError
from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding
from pipeline.cli.doctor.packages import packages, python
from pipeline.cli.dvc import RWLOCK
from pipeline.core.artifacts import read_json
from pipeline.core.hardware import cpu_name, cuda_devices, cuda_driver, usable_cores

FULL_GB, LOW_GB = 0.5, 5.0  # of disk; the default run leaves about 1 GB
LOW_MEMORY_GB = 4.0


def environment() -> Iterator[Finding]:
    """Yield what was found about this machine and its packages."""
    yield python()
    yield from packages()
    yield _git()
    yield _dvc()
    yield _user()
    yield _home()
    yield _folder()
    yield disk(shutil.disk_usage(Path()).free)
    yield _machine()
    yield _devices()


def _git() -> Finding:
    inside = any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))
    if not inside and not _without_git():
        remedy = "git init; or, without git: python -m dvc config core.no_scm true"
        return Finding("git", FAILS, "this is no checkout, and DVC expects one", remedy)
    if shutil.which("git") is None:
        return Finding("git", WARNING, "is not installed", "install git: runs then name a commit")
    if not inside:
        return Finding("git", WARNING, "this is no checkout", "git init: runs then name a commit")
    return Finding("git", OK, "a checkout")


def _without_git() -> bool:
    """Say whether DVC is set up to work without git."""
    config = ConfigParser(strict=False)
    config.read([".dvc/config", ".dvc/config.local"])
    return config.get("core", "no_scm", fallback="").lower() == "true"


def _dvc() -> Finding:
    if not Path(".dvc").is_dir():
        return Finding("dvc", FAILS, "no .dvc here", "dvc init (--no-scm without git)")
    if RWLOCK.exists():
        try:
            read_json(RWLOCK)
        except ArtifactError as e:
            return Finding("dvc", FAILS, str(e).partition(";")[0], f"rm {RWLOCK}")
    script = Path(sys.executable).with_name("dvc")
    first = script.read_bytes().partition(b"\n")[0] if script.exists() else b""
    python = Path(os.fsdecode(first.removeprefix(b"#!").strip()))
    if first.startswith(b"#!/") and b" " not in first and not python.exists():
        found = f"{script} begins with {python}, which is not there: the project was moved"
        return Finding("dvc", WARNING, found, "rm .venv/.ready; make setup; or: python -m dvc")
    return Finding("dvc", OK, "initialised")


def _user() -> Finding:
    try:
        return Finding("user", OK, getpass.getuser())
    except (KeyError, OSError):
        remedy = "export USER=shoal: DVC wants a name (make repro sets one)"
        return Finding("user", FAILS, f"user {os.getuid()} has no name here", remedy)


def _home() -> Finding:
    home = Path(os.environ.get("HOME") or "/")
    if not os.access(home, os.W_OK):
        found = f"{home} cannot be written: published weights and settings are not kept"
        return Finding("home", WARNING, found, "export HOME=a folder that can be written")
    return Finding("home", OK, f"{home} can be written")


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
    found = f"{cpu_name()}, {usable_cores()} cores, {memory_gb:.1f} GB of memory"
    if memory_gb < LOW_MEMORY_GB:
        return Finding("machine", WARNING, found, "lower train.batch_size if memory runs out")
    return Finding("machine", OK, found)


def _devices() -> Finding:
    devices = cuda_devices()
    if not devices:
        return Finding("devices", OK, "no CUDA device: all runs on the CPU")
    named = ", ".join(
        f"{device.name} (compute capability {device.compute_capability})" for device in devices
    )
    return Finding("devices", OK, f"{named}, driver {cuda_driver()}")
