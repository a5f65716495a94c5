"""The facts about this machine on which engines and latencies depend, and nothing that varies."""

import dataclasses
import platform
from importlib import metadata
from typing import Any

from models.errors import BackendUnavailable
from pipeline.core.hardware import cpu_features, cpu_name, cuda_devices, cuda_driver, usable_cores
from pipeline.engines.backends.interface import Backend
from pipeline.engines.backends.registry import BACKENDS


def probe() -> dict[str, Any]:
    """Return devices, driver, CPU, versions and which backends can build here.

    On an unchanged machine the result is always the same, so that writing it again leaves the
    stages that depend on it alone. torch's version is read without importing torch.
    """
    return {
        "devices": [dataclasses.asdict(device) for device in cuda_devices()],
        "driver": cuda_driver(),
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
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
