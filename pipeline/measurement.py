"""Time proven engines against each other in one run, with the state of the machine around it.

The protocol is in `pipeline.timing` and `pipeline.protocol`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import meters
from pipeline.bootstrap import Rounds
from pipeline.contenders import Contender
from pipeline.energy import energy_mj_per_image
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Bound, Engine, Images, LayerTime
from pipeline.engines.machine import usable_cores
from pipeline.layer_profile import typical
from pipeline.params import Benchmark
from pipeline.progress import progress
from pipeline.protocol import pinned, protocol
from pipeline.timing import (
    Settled,
    Timer,
    latency,
    measure_interleaved,
    no_garbage_collection,
    settle,
    stopwatch,
)

Opened = Mapping[Contender, Engine]

PROFILES = 5  # runs with the profiler


@dataclass(frozen=True)
class Timed:
    """What one engine took at one batch size.

    Attributes:
        host: durations in ms from host memory to host memory, by round.
        device: the same on the device alone; None where there is none.
        device_how: how the device's work was started: ``CUDA graph``, or ``enqueue`` and why.
        warmup: how the engine became stable.
    """

    host: Rounds
    device: Rounds | None
    device_how: str | None
    warmup: Settled


Timings = dict[int, dict[Contender, Timed]]  # by batch size


@dataclass(frozen=True)
class Measured:
    """All that was measured in one run.

    Attributes:
        timings: by batch size.
        energy: mJ per image at the largest batch, by what used it; empty where nothing tells.
        no_energy: why energy meters are missing.
        layers: typical times at the largest batch, of engines whose backend has a profiler.
        protocol: how it was measured.
        conditions: clocks, temperatures and load, at the start and at the end.
    """

    timings: Timings
    energy: dict[Contender, dict[str, float]]
    no_energy: dict[str, str]
    layers: dict[Contender, list[LayerTime]]
    protocol: dict[str, Any]
    conditions: dict[str, Any]


def measure_engines(timed: Sequence[Contender], images: Images, settings: Benchmark) -> Measured:
    """Open all engines and time them against each other, one batch size after the other.

    Args:
        timed: the engines.
        images: normalised; repeated where a batch is larger.
        settings: how to time.

    Raises:
        ParamsError: `settings.cores` cannot be used.
        BackendError: an engine cannot be opened or run though it could when it was verified.
    """
    with pinned(settings.cores):
        threads = settings.threads or usable_cores()
        before = meters.conditions()
        opened = {one: BACKENDS[one.backend].load(one.engine, threads) for one in timed}
        timings = {
            size: _time(opened, _batch(images, size), settings) for size in settings.batch_sizes
        }
        largest = _batch(images, settings.batch_sizes[-1])
        energy, no_energy = _energy(opened, largest)
        layers = _layers(opened, largest)
        conditions = {"before": before, "after": meters.conditions()}
        facts = protocol(settings, threads)
        return Measured(timings, energy, no_energy, layers, facts, conditions)


def numbers(durations: Rounds) -> dict[str, Any]:
    """Return a latency as it stands in metrics files, in ms."""
    found = latency(durations)
    rounded = {name: round(getattr(found, name), 4) for name in ("p50", "p90", "p99")}
    if found.p50_ci is None:
        return rounded
    return {"p50": rounded.pop("p50"), "p50_ci": [round(ms, 4) for ms in found.p50_ci], **rounded}


def _energy(
    opened: Opened, batch: Images
) -> tuple[dict[Contender, dict[str, float]], dict[str, str]]:
    working, absent = meters.energy_meters()
    if not working:
        return {}, absent
    used = {
        one: energy_mj_per_image(engine(batch).run, len(batch), working)
        for one, engine in opened.items()
    }
    return used, absent


def _layers(opened: Opened, batch: Images) -> dict[Contender, list[LayerTime]]:
    profilers = {one: engine(batch).layer_times for one, engine in opened.items()}
    return {
        one: typical([profiler() for _ in range(PROFILES)])
        for one, profiler in profilers.items()
        if profiler
    }


def _batch(images: Images, size: int) -> Images:
    return np.resize(images, (size, *images.shape[1:]))  # repeats the images if need be


def _time(opened: Opened, batch: Images, settings: Benchmark) -> dict[Contender, Timed]:
    bound = {one: engine(batch) for one, engine in opened.items()}
    timers = {key: timer for one, run in bound.items() for key, timer in _timers(one, run).items()}
    with no_garbage_collection():
        settled = {
            key: settle(timer, settings.warmup)
            for key, timer in progress(timers.items(), f"warming up, batch {len(batch)}")
        }
        taken = measure_interleaved(timers, rounds=settings.rounds, repeats=settings.repeats)
    return {
        one: Timed(
            taken[one, "host"], taken.get((one, "device")), run.device_how, settled[one, "host"]
        )
        for one, run in bound.items()
    }


def _timers(one: Contender, run: Bound) -> dict[tuple[Contender, str], Timer]:
    timers = {(one, "host"): stopwatch(run.run)}
    return timers | ({(one, "device"): run.device_ms} if run.device_ms else {})
