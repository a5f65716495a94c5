"""What this machine can run engines on: its CPU cores and CUDA devices, found without torch."""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

CUDA_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CPUINFO = Path("/proc/cpuinfo")
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class CudaDevice:
    """A GPU that CUDA can use."""

    name: str
    compute_capability: str
    memory_bytes: int


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the CPU's name as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return the vector instructions: ONNX Runtime lays out weights by them.

    In virtual machines the CPU's name often does not tell.
    """
    features = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(f for f in features if f.startswith(("avx", "amx", "asimd", "sve")))


def cuda_devices() -> list[CudaDevice]:
    """Return the devices the CUDA driver shows to this process; empty without a working driver.

    The driver is asked directly: importing torch takes seconds, and nvidia-smi neither knows
    CUDA_VISIBLE_DEVICES nor answers on every Jetson.
    """
    driver = _driver()
    if driver is None:
        return []
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(driver, index) for index in range(count.value)]


def cuda_driver() -> str | None:
    """Return the driver's version, e.g. ``580.65.06 (CUDA 13.0)``, or None where there is none."""
    driver = _driver()
    number = ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    cuda = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    kernel_module = Path("/sys/module/nvidia/version")
    if not kernel_module.exists():  # Windows, WSL
        return cuda
    return f"{kernel_module.read_text(encoding='ascii').strip()} ({cuda})"


def _cpuinfo(key: str) -> str:
    """Return the value of the first line ``key : value`` in /proc/cpuinfo, "" without one."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL(CUDA_LIBRARY)
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _device(driver: ctypes.CDLL, index: int) -> CudaDevice:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    major, minor = (_attribute(driver, handle, attribute) for attribute in (MAJOR, MINOR))
    return CudaDevice(name.value.decode(), f"{major}.{minor}", memory.value)


def _attribute(driver: ctypes.CDLL, handle: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value
