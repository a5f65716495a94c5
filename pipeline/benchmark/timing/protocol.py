"""How latencies were taken, as facts that stand beside every result, and the same in words."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from models.errors import ParamsError
from pipeline.bootstrap import CONFIDENCE_PCT, RESAMPLES
from pipeline.params import Benchmark


def protocol(settings: Benchmark, threads: int) -> dict[str, Any]:
    """Return everything about the measurement that is no result.

    Args:
        settings: how engines are timed.
        threads: CPU threads of each engine.
    """
    return {
        "batch_sizes": settings.batch_sizes,
        "warmup": settings.warmup.model_dump(),
        "rounds": settings.rounds,
        "repeats": settings.repeats,
        "untimed_calls_per_turn": 1,
        "order": "interleaved; every round in a new random order",
        "threads": threads,
        "cores": usable(),
        "pinned": settings.cores is not None,
        "clock": "time.perf_counter_ns; device: CUDA events",
        "host": "from images in host memory to logits in host memory",
        "device": "images and logits on the device, without copies and host",
        "garbage_collection": "off",
        "p50_ci": f"{CONFIDENCE_PCT} %, bootstrap over rounds, {RESAMPLES} resamples",
        "timed": "engines whose own bytes passed the parity ladder",
    }


def protocol_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the protocol as sentences to print beside a table."""
    warmup = facts["warmup"]
    cores = ", ".join(map(str, facts["cores"])) or "unknown"
    return [
        f"Timed: {facts['timed']}.",
        f"Host time: {facts['host']}. Device time: {facts['device']} (CUDA events).",
        f"{facts['rounds']} rounds × {facts['repeats']} calls, engines in turn in random order, "
        f"the first call of every turn untimed; p50 with its interval ({facts['p50_ci']}).",
        f"Warm-up: until the medians of three windows of {warmup['window']} calls agree within "
        f"{warmup['within_pct']:g} %, at most {warmup['max_calls']} calls.",
        f"{facts['threads']} threads on CPU cores {cores}"
        f"{' (pinned)' if facts['pinned'] else ''}; garbage collection off.",
    ]


def machine(probed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `probe` found, with the versions of the backends alone."""
    facts = dict(probed)
    backends = facts.pop("backends")
    versions = {name: found["version"] for name, found in backends.items() if "version" in found}
    return facts | {"versions": versions}


def usable() -> list[int]:
    """Return the CPU cores this process may run on; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def pinned(cores: list[int] | None) -> Iterator[None]:
    """Keep this process, and the threads it starts, on these CPU cores; None leaves them free.

    Raises:
        ParamsError: the process may not use one of them.
    """
    if cores is None:
        yield
        return
    before = usable()
    if not set(cores) <= set(before):
        raise ParamsError(
            f"benchmark.cores = {cores}: this process may use {before or 'no chosen cores here'}; "
            "name some of these, or null"
        )
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
