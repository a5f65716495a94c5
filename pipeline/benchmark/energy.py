"""Energy per image of engines, by the counters that `zeus` reads (the extra `energy`)."""

import time
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

from pipeline.benchmark.records import EngineEnergy, EngineKey

SECONDS = 2.0  # in which an engine runs over and over; counters move 10 to 1000 times a second
# In which processes of zeus start, which poll RAPL and Jetson's sensors. Each imports the main
# module again, so stages/benchmark.py imports nothing slow before it runs.
STARTED_S = 3.0


def energy_per_image(
    runs: Mapping[EngineKey, Callable[[], object]], images: int
) -> tuple[list[EngineEnergy], dict[str, str]]:
    """Return mJ per image by engine and counter, and why other meters cannot be read.

    The whole device's energy is counted, idle power and other processes included. A counter that
    did not move is left out.

    Args:
        runs: one call on a batch, by engine.
        images: in the batch.
    """
    readable, absent = readings()
    if not readable:
        return [], absent
    time.sleep(STARTED_S)
    found = [
        EngineEnergy(*one.key, meter, round(mj, 4))
        for one, run in runs.items()
        for meter, mj in _mj_per_image(run, images).items()
    ]
    return found, absent


def _mj_per_image(run: Callable[[], object], images: int) -> dict[str, float]:
    run()
    before, _ = readings()
    calls, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        run()
        calls += 1
    after, _ = readings()
    used = {meter: after[meter] - before[meter] for meter in before.keys() & after.keys()}
    return {meter: mj / (calls * images) for meter, mj in sorted(used.items()) if mj > 0}


def readings() -> tuple[dict[str, float], dict[str, str]]:
    """Read what GPUs, CPU packages and the system on a chip have used so far.

    Returns:
        mJ by counter, e.g. ``gpu0``, ``cpu0``, ``soc total``; and why a meter is absent.
    """
    try:
        from zeus import device
        from zeus.exception import ZeusBaseError
    except ImportError:
        return {}, dict.fromkeys(METERS, "zeus is not installed; pip install '.[energy]'")
    found: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, read in METERS.items():
        try:
            found |= read(device)
        except (ZeusBaseError, OSError) as e:
            absent[name] = str(e)
        except Empty:
            absent[name] = "the process that polls the sensors does not answer"
    return found, absent


def _gpus(device: Any) -> dict[str, float]:
    gpus = device.get_gpus()
    return {f"gpu{n}": float(gpus.get_total_energy_consumption(n)) for n in range(len(gpus))}


def _cpus(device: Any) -> dict[str, float]:
    cpus = device.get_cpus()
    return {f"cpu{n}": cpus.get_total_energy_consumption(n).cpu_mj for n in range(len(cpus))}


def _soc(device: Any) -> dict[str, float]:
    rails = vars(device.get_soc().get_total_energy_consumption())
    return {
        f"soc {name.removesuffix('_mj').removesuffix('_energy')}": mj
        for name, mj in rails.items()
        if isinstance(mj, int | float)
    }


METERS = {"gpu": _gpus, "cpu": _cpus, "soc": _soc}
