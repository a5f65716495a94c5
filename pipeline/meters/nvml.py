"""Clocks, temperature, power and energy of NVIDIA GPUs by NVML (the extra `nvml`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.meters.interface import Unreadable

FIX = "pip install '.[nvml]'"


def gpus() -> list[dict[str, Any]]:
    """Return for each GPU its name and what it tells; what it does not is absent.

    `slowed_by` lists why the GPU holds back its clocks, e.g. ``SwPowerCap``.
    """
    with _open() as nvml:
        return [_reading(nvml, handle) for handle in _handles(nvml)]


def start() -> Callable[[], dict[str, float]]:
    """Read the GPUs' counters now; the function returned gives the joules used since then."""
    before = _millijoules()

    def stop() -> dict[str, float]:
        return {gpu: (now - before[gpu]) / 1e3 for gpu, now in _millijoules().items()}

    return stop


@contextmanager
def _open() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError as e:
        raise Unreadable(f"nvidia-ml-py is not installed; {FIX}") from e
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        raise Unreadable(f"NVML: {e}") from e
    try:
        yield pynvml
    except pynvml.NVMLError as e:
        raise Unreadable(f"NVML: {e}") from e
    finally:
        pynvml.nvmlShutdown()


def _handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]


def _reading(nvml: Any, gpu: Any) -> dict[str, Any]:
    questions: dict[str, Callable[[], Any]] = {
        "name": lambda: nvml.nvmlDeviceGetName(gpu),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "slowed_by": lambda: _slowed_by(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
    }
    found = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except nvml.NVMLError:  # this GPU does not tell, as Jetson's
            continue
    return found


def _slowed_by(nvml: Any, reasons: int) -> list[str]:
    prefix = "nvmlClocksEventReason"
    return [
        name.removeprefix(prefix)
        for name in sorted(vars(nvml))
        if name.startswith(prefix) and not name.endswith("All") and reasons & getattr(nvml, name)
    ]


def _millijoules() -> dict[str, int]:
    with _open() as nvml:
        return {
            f"gpu{index}": nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
            for index, gpu in enumerate(_handles(nvml))
        }
