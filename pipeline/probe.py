"""The facts about this machine on which engines and latencies depend, and nothing that varies."""

import dataclasses
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from models.errors import BackendUnavailable
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Backend
from pipeline.engines.machine import cuda_devices, cuda_driver, usable_cores

CPUINFO = Path("/proc/cpuinfo")


def probe() -> dict[str, Any]:
    """Return devices, driver, CPU, versions and which backends can build here.

    On an unchanged machine the result is always the same, so that writing it again leaves the
    stages that depend on it alone. torch's version is read without importing torch.
    """
    return {
        "devices": [dataclasses.asdict(device) for device in cuda_devices()],
        "driver": cuda_driver(),
        "cpu": _cpu_name(),
        "cpu_features": _cpu_features(),
        "cores": usable_cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "backends": {name: _backend(backend) for name, backend in BACKENDS.items()},
    }


def _backend(backend: Backend) -> dict[str, Any]:
    try:
        backend.check()
    except BackendUnavailable as e:
        return {"available": False, "reason": str(e)}
    return {"available": True, "version": backend.version()}


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    """Return the vector instructions: ONNX Runtime lays out weights by them.

    In virtual machines the CPU's name often does not tell.
    """
    features = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(f for f in features if f.startswith(("avx", "amx", "asimd", "sve")))


def _cpuinfo(key: str) -> str:
    """Return the value of the first line ``key : value`` in /proc/cpuinfo, "" without one."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
