"""Energy per image of one engine, on machines whose meters can be read."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pipeline.meters.interface import EnergyMeter, Unreadable

SECONDS = 1.0  # meters are read some 10 to 1000 times a second


def energy_mj_per_image(
    run: Callable[[], object], images: int, meters: Mapping[str, EnergyMeter]
) -> dict[str, float]:
    """Run over and over for a second or more and return mJ per image, by what used the energy.

    The whole device's energy is counted, idle power and other processes included. A meter that
    fails is left out.

    Args:
        run: one call on a batch.
        images: in the batch.
        meters: of `pipeline.meters.energy_meters`.
    """
    run()
    stops: list[Callable[[], dict[str, float]]] = []
    for start in meters.values():
        with suppress(Unreadable):
            stops.append(start())
    joules: dict[str, float] = {}
    try:
        calls = _run_for(run, SECONDS)
    finally:  # a meter may be a process
        for stop in stops:
            with suppress(Unreadable):
                joules |= stop()
    return {user: round(1e3 * used / (calls * images), 4) for user, used in joules.items()}


def _run_for(run: Callable[[], object], seconds: float) -> int:
    calls, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        run()
        calls += 1
    return calls
