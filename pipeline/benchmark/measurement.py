"""The one measurement: engines of one variant or several, timed against each other in one run.

The protocol is in `pipeline.benchmark.timing.interleaved` and `pipeline.benchmark.timing.protocol`.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from pipeline.benchmark.conditions import conditions
from pipeline.benchmark.energy import energy_per_image
from pipeline.benchmark.layer_profile import node_to_block, shares
from pipeline.benchmark.memory import memory_of_engines
from pipeline.benchmark.proven_engines import Engines, ProvenEngine
from pipeline.benchmark.records import BenchmarkMetrics, EngineLatency, Interval, LayerShare
from pipeline.benchmark.savings import Durations, rounded, savings, verdicts
from pipeline.benchmark.settled import unsettled
from pipeline.benchmark.short_pass import Ratios, near_the_front
from pipeline.benchmark.short_pass import ratios as short_ratios
from pipeline.benchmark.timing.confidence import Rounds
from pipeline.benchmark.timing.disturbance import watched
from pipeline.benchmark.timing.interleaved import Timer, latency, stopwatch, time_in_turn
from pipeline.benchmark.timing.protocol import pinned, protocol
from pipeline.core.arrays import Images
from pipeline.core.hardware import usable_cores
from pipeline.core.params import Benchmark
from pipeline.engines.backends.interface import Bound, Engine
from pipeline.engines.backends.registry import BACKENDS
from pipeline.export.boundaries import load_onnx

PROFILES = 5  # runs with the profiler


def benchmark(
    engines: Engines, images: Images, settings: Benchmark, target: dict[str, Any]
) -> BenchmarkMetrics:
    """Time all proven engines against each other, one batch size after the other.

    Of more than `settings.full_pass` engines, a short pass at the largest batch size finds those
    that may be on the front; the others have a ratio to the reference and no latency.

    Args:
        engines: the proven ones are timed, the others are listed.
        images: normalised; repeated where a batch is larger.
        settings: how to time.
        target: the machine, as `pipeline.benchmark.timing.protocol.machine` describes it.

    Raises:
        ParamsError: `settings.cores` cannot be used.
        BackendError: an engine cannot be opened or run though it could when it was verified.
    """
    sizes, latencies = settings.batch_sizes, []
    durations: dict[int, Durations] = {}
    ratios: Ratios = {}
    chosen = engines.proven
    with pinned(settings.cores):
        threads = settings.threads or usable_cores()
        before = conditions()
        if len(chosen) > settings.full_pass:
            ratios = short_ratios(chosen, images, settings)
            chosen = near_the_front(ratios)
        opened = {one: BACKENDS[one.backend].load(one.engine, threads) for one in chosen}
        with watched(threads) as other:
            for size in sizes:
                timed, durations[size] = _time(opened, _batch(images, size), settings)
                latencies += timed
        bound = {one: engine(_batch(images, sizes[-1])) for one, engine in opened.items()}
        energy, no_energy = energy_per_image({one: b.run for one, b in bound.items()}, sizes[-1])
        layers = [share for one, b in bound.items() for share in _layers(one, b)]
        facts, after = protocol(settings, threads), conditions()
    memory, no_memory = memory_of_engines(chosen, images.shape[1:], sizes, threads)
    return BenchmarkMetrics(
        target=target,
        protocol=facts,
        conditions={"before": before, "after": after, "cores_of_others": other.cores},
        not_timed=engines.not_timed(),
        no_energy=no_energy,
        no_memory=no_memory,
        latencies=latencies,
        savings=[saving for size in sizes for saving in savings(durations[size], size)],
        memory=memory,
        energy=energy,
        layers=layers,
        skipped=engines.skipped,
        engines=[one.timed for one in chosen],
        verdicts=[verdict for size in sizes for verdict in verdicts(durations[size], size)],
        ratios=[ratio for one, ratio in ratios.items() if one not in chosen],
        unsettled=unsettled(durations[sizes[-1]], timed, other),
    )


def _batch(images: Images, size: int) -> Images:
    return np.resize(images, (size, *images.shape[1:]))  # repeats the images if need be


def _time(
    opened: Mapping[ProvenEngine, Engine], batch: Images, settings: Benchmark
) -> tuple[list[EngineLatency], Durations]:
    """Return the latency of each engine on a batch, and how long each call took on the host."""
    bound = {one: engine(batch) for one, engine in opened.items()}
    timers: dict[tuple[ProvenEngine, str], Timer] = {}
    for one, run in bound.items():
        timers[one, "host"] = stopwatch(run.run)
        if run.device_ms:
            timers[one, "device"] = run.device_ms
    timed = time_in_turn(timers, settings)
    latencies = []
    for one, run in bound.items():
        host, device = timed[one, "host"], timed.get((one, "device"))
        quiet_ms, *others = percentiles(host.durations)
        images_per_s = round(1e3 * len(batch) / quiet_ms, 1)
        warmup = (host.warmup_calls, host.warmed_up)
        on_device = (*percentiles(device.durations), run.device_how) if device else ()
        row = (len(batch), quiet_ms, *others, images_per_s, *warmup, *on_device)
        latencies.append(EngineLatency(*one.key, *row))
    return latencies, {one: timed[one, "host"].durations for one in bound}


def percentiles(durations: Rounds) -> tuple[float, Interval | None, float, float, float]:
    """Return the quiet latency, its interval, p50, p90 and p99, in ms as in metrics files."""
    found = latency(durations)
    quiet, p50, p90, p99 = (round(ms, 4) for ms in (found.quiet, found.p50, found.p90, found.p99))
    return quiet, rounded(found.quiet_ci), p50, p90, p99


def _layers(one: ProvenEngine, bound: Bound) -> list[LayerShare]:
    """Return the times by block, of layers at their median; none where there is no profiler."""
    if bound.layer_times is None:
        return []
    runs = [bound.layer_times() for _ in range(PROFILES)]
    layers = [
        replace(times[0], ms=median(time.ms for time in times)) for times in zip(*runs, strict=True)
    ]
    found = shares(layers, node_to_block(load_onnx(one.graph)))
    return [LayerShare(*one.key, kind, block, round(ms, 4)) for (kind, block), ms in found.items()]
