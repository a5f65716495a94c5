"""What the machine tells about itself while engines are timed: conditions, and energy used.

What cannot be read is absent, with the reason; it is never zero.
"""

import time
from typing import Any

from pipeline.meters import nvml, rapl, sysfs, tegrastats
from pipeline.meters.interface import EnergyMeter, Unreadable

METERS = {"rapl": rapl.start, "nvml": nvml.start, "tegrastats": tegrastats.start}
TRIAL_S = 0.2  # in which a meter that samples must have sampled


def conditions() -> dict[str, Any]:
    """Return clocks, temperatures and load as they are now.

    Returns:
        `cpu_mhz` by core, `temperature_c` by sensor, `load_1min`, `gpus`; and under `absent`, why
        one of them is missing.
    """
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, read in (
        ("cpu_mhz", sysfs.cpu_mhz),
        ("temperature_c", sysfs.temperature_c),
        ("load_1min", sysfs.load_1min),
        ("gpus", nvml.gpus),
    ):
        try:
            found[name] = read()
        except Unreadable as e:
            absent[name] = str(e)
    return found | {"absent": absent}


def energy_meters() -> tuple[dict[str, EnergyMeter], dict[str, str]]:
    """Return the energy meters that work here by name, and why the others do not.

    Each is tried once: being there does not mean being readable.
    """
    working: dict[str, EnergyMeter] = {}
    absent: dict[str, str] = {}
    for name, start in METERS.items():
        try:
            stop = start()
            time.sleep(TRIAL_S)
            stop()
            working[name] = start
        except Unreadable as e:
            absent[name] = str(e)
    return working, absent
