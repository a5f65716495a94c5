"""Clocks, temperatures and load of the CPU, from what Linux shows under /sys."""

import os
from pathlib import Path

from pipeline.meters.interface import Unreadable

SYS = Path("/sys")


def cpu_mhz(sys: Path = SYS) -> dict[str, float]:
    """Return the clock of every core, e.g. ``{"cpu0": 2600.0}``."""
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks = {file.parent.parent.name: _number(file) for file in files}
    found = {core: khz / 1e3 for core, khz in clocks.items() if khz is not None and khz > 0}
    if not found:
        raise Unreadable("Linux shows no CPU clock, as in many virtual machines")
    return found


def temperature_c(sys: Path = SYS) -> dict[str, float]:
    """Return the temperatures of all thermal zones and hardware monitors by name."""
    zones = {zone / "type": zone / "temp" for zone in sys.glob("class/thermal/thermal_zone*")}
    monitors = {
        monitor / "name": value
        for monitor in sys.glob("class/hwmon/hwmon*")
        for value in sorted(monitor.glob("temp*_input"))[:1]  # the package comes first
    }
    found: dict[str, float] = {}
    for name, value in sorted((zones | monitors).items()):
        millidegrees = _number(value)
        if millidegrees is not None and name.exists():
            found.setdefault(name.read_text(encoding="ascii").strip(), millidegrees / 1e3)
    if not found:
        raise Unreadable("Linux shows no temperature sensor, as in many virtual machines")
    return found


def load_1min() -> float:
    """Return how many processes wanted to run, on average over the last minute, ours included."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError as e:
        raise Unreadable(f"no load average: {e}") from e


def _number(file: Path) -> float | None:
    """Return the number in a file; None where the driver refuses to tell."""
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
