"""Latency of every engine that can run here, level against level in the same minutes.

Levels take turns in rounds of random order, so that a machine that grows hot or busy slows all of
them alike, and an engine is timed only if its logits are those of the ONNX network it came from.
"""

import gc
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.errors import BackendUnavailable, ParityError
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Engine, Images
from pipeline.engines.machine import usable_cores
from pipeline.engines.onnxruntime import runner
from pipeline.params import Benchmark, Build, Params
from pipeline.progress import progress

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Latency:
    """Percentiles of one callable's duration in ms, over that many timed calls."""

    p50: float
    p90: float
    p99: float
    samples: int


def measure(run: Callable[[], object], *, warmup: int, repeats: int) -> Latency:
    """Time `repeats` calls of `run`, after `warmup` calls that are not timed.

    `run` must return only when its work is done: a GPU has to be waited for.
    """
    return measure_interleaved({0: run}, warmup=warmup, rounds=1, repeats=repeats)[0]


def measure_interleaved(
    runs: Mapping[Key, Callable[[], object]], *, warmup: int, rounds: int, repeats: int
) -> dict[Key, Latency]:
    """Time all `runs` in turn: every round calls each of them `repeats` times, in a new order.

    The orders are random but always the same. `warmup` calls of each come first, not timed, and
    no garbage is collected meanwhile.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    durations: dict[Key, list[int]] = {key: [] for key in runs}
    with _no_garbage_collection():
        for order in progress(_orders(list(runs), rounds), "timing", total=rounds, unit="round"):
            for key in order:
                durations[key].extend(_duration_ns(runs[key]) for _ in range(repeats))
    return {key: _latency(taken) for key, taken in durations.items()}


def _orders(keys: list[Key], rounds: int) -> Iterator[list[Key]]:
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(keys)
        yield list(keys)


def _duration_ns(run: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def _latency(durations_ns: list[int]) -> Latency:
    p50, p90, p99 = (float(p) / 1e6 for p in np.percentile(durations_ns, [50, 90, 99]))
    return Latency(p50, p90, p99, len(durations_ns))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def benchmark(
    built: dict[str, Any], engines: Path, networks: Path, images: Images, params: Params
) -> dict[str, Any]:
    """Check and time every engine that was built and can run here.

    Args:
        built: the build metrics.
        engines: the folder their files lie in.
        networks: the folder of the ONNX files ``level_<n>.onnx`` they were built from.
        images: normalised; repeated where a batch is larger.
        params: `benchmark` says how to time, `build` what the engines were built for.

    Returns:
        The benchmark metrics, but for the facts about the machine.

    Raises:
        ParityError: an engine does not compute what its ONNX network does.
        BackendError: an engine cannot be opened or run though its backend can run here.
    """
    backends, not_timed = _runnable(built, params.build)
    threads = params.benchmark.threads or usable_cores()
    levels: list[dict[str, Any]] = [
        {"level": level["level"], "removed": level["removed"], "parity": {}, "latency_ms": {}}
        for level in built["levels"]
    ]
    for name in backends:
        opened = [
            BACKENDS[name].load(engines / level["engines"][name]["file"], threads)
            for level in built["levels"]
        ]
        for level, engine in zip(levels, opened, strict=True):
            network = networks / f"level_{level['level']}.onnx"
            level["parity"][name] = _check_parity(name, engine, network, images)
        for level, latencies in zip(levels, _time(opened, images, params.benchmark), strict=True):
            level["latency_ms"][name] = latencies
    protocol = _protocol(params.benchmark, threads, backends)
    return {"protocol": protocol, "not_timed": not_timed, "levels": levels}


def _runnable(built: dict[str, Any], options: Build) -> tuple[list[str], dict[str, str]]:
    """Return the backends that can be timed, and why the others cannot."""
    runnable = []
    reasons = {name: f"not built: {reason}" for name, reason in built["not_available"].items()}
    for name in dict.fromkeys(name for level in built["levels"] for name in level["engines"]):
        try:
            BACKENDS[name].runnable(options)
            runnable.append(name)
        except BackendUnavailable as e:
            reasons[name] = str(e)
    return runnable, reasons


def _check_parity(name: str, engine: Engine, network: Path, images: Images) -> float:
    """Return the largest difference from the ONNX network's logits, over the largest of them."""
    expected = runner(network)(images)
    error = float(np.abs(engine(images).run() - expected).max() / np.abs(expected).max())
    if not error <= BACKENDS[name].tolerance:  # NaN is not
        raise ParityError(
            f"the {name} engine of {network} is off by {error:.1e} of the largest logit; "
            f"{BACKENDS[name].tolerance:.0e} is allowed. Leave {name} out of build.backends, or "
            "build with another version of it"
        )
    return error


def _time(
    engines: list[Engine], images: Images, settings: Benchmark
) -> list[dict[str, dict[str, float]]]:
    """Return for each engine ``{batch: {p50, p90, p99, images_per_s}}``, in ms."""
    timed: list[dict[str, dict[str, float]]] = [{} for _ in engines]
    for size in settings.batch_sizes:
        batch = np.resize(images, (size, *images.shape[1:]))  # repeats the images if need be
        measured = measure_interleaved(
            {number: engine(batch).run for number, engine in enumerate(engines)},
            warmup=settings.warmup,
            rounds=settings.rounds,
            repeats=settings.repeats,
        )
        for number, latency in measured.items():
            timed[number][str(size)] = {
                "p50": round(latency.p50, 4),
                "p90": round(latency.p90, 4),
                "p99": round(latency.p99, 4),
                "images_per_s": round(1e3 * size / latency.p50, 1),
            }
    return timed


def _protocol(settings: Benchmark, threads: int, timed: list[str]) -> dict[str, Any]:
    return {
        "warmup": settings.warmup,
        "rounds": settings.rounds,
        "repeats": settings.repeats,
        "threads": threads,
        "batch_sizes": settings.batch_sizes,
        "order": "interleaved",
        "measured": "from images on the device to logits in host memory",
        "precision": {name: BACKENDS[name].precision for name in timed},
    }
