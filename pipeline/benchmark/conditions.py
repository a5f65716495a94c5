"""State of the machine while engines are timed: clocks, temperatures, load, GPUs (extra `nvml`).

What cannot be read is absent, with the reason.
"""

from collections.abc import Callable
from typing import Any

import psutil


def conditions() -> dict[str, Any]:
    """Return clocks, temperatures and load as they are now.

    Returns:
        `cpu_mhz` by core, `temperature_c` by sensor, `load_1min`, `gpus`; and under `absent`, why
        one of them is missing.
    """
    readings = {"cpu_mhz": cpu_mhz(), "temperature_c": temperature_c(), "gpus": gpus()}
    unknown = "the system shows none, as many virtual machines do"
    absent = {
        name: reading or unknown
        for name, reading in readings.items()
        if not reading or isinstance(reading, str)
    }
    found = {name: reading for name, reading in readings.items() if name not in absent}
    return {"load_1min": round(psutil.getloadavg()[0], 2), **found, "absent": absent}


def cpu_mhz() -> dict[str, float]:
    """Return the clock of every core, or of each group with one clock; empty where none is shown.

    E.g. ``{"cpu0": 2600.0, "cpu1": 3100.0}``.
    """
    try:
        clocks = psutil.cpu_freq(percpu=True) or []
    except (NotImplementedError, OSError):  # a driver that refuses
        return {}
    return {f"cpu{core}": clock.current for core, clock in enumerate(clocks) if clock.current > 0}


def temperature_c() -> dict[str, float]:
    """Return the first temperature, that of the package, of each sensor by name."""
    if not hasattr(psutil, "sensors_temperatures"):  # Windows, macOS
        return {}
    sensors = psutil.sensors_temperatures()
    return {name: readings[0].current for name, readings in sensors.items() if readings}


def gpus() -> list[dict[str, Any]] | str:
    """Return for each NVIDIA GPU its name and what it reports, or why GPUs cannot be read.

    `slowed_by` lists why the GPU holds back its clocks, e.g. ``SwPowerCap``.
    """
    try:
        import pynvml as nvml
    except ImportError:
        return "nvidia-ml-py is not installed; pip install '.[nvml]'"
    try:
        nvml.nvmlInit()
        try:
            handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
            return [_gpu(nvml, handle) for handle in handles]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as e:
        return f"NVML: {e}"


def _gpu(nvml: Any, gpu: Any) -> dict[str, Any]:
    questions: dict[str, Callable[[], Any]] = {
        "name": lambda: nvml.nvmlDeviceGetName(gpu),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "slowed_by": lambda: slowed_by(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
    }
    found = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except nvml.NVMLError:  # this GPU does not report it, as Jetson's
            continue
    return found


def slowed_by(nvml: Any, reasons: int) -> list[str]:
    """Return the names of the reasons that are set in a bit mask of NVML."""
    prefix = "nvmlClocksEventReason"
    return [
        name.removeprefix(prefix)
        for name in sorted(vars(nvml))
        if name.startswith(prefix) and not name.endswith("All") and reasons & getattr(nvml, name)
    ]
