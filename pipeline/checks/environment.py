"""Has this machine the packages, tools, devices and room to work with?"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.checks.packages import packages, python
from pipeline.engines.machine import cpu_name, cuda_devices, cuda_driver, usable_cores

FULL_GB, LOW_GB = 0.5, 5.0  # of disk; the default run leaves about 1 GB
LOW_MEMORY_GB = 4.0


def environment() -> Iterator[Finding]:
    """Yield what was found about this machine and its packages."""
    yield python()
    yield from packages()
    yield _git()
    yield _folder()
    yield disk(shutil.disk_usage(Path()).free)
    yield _machine()
    yield _devices()


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
