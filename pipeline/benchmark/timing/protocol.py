"""How latencies were taken, as facts that stand beside every result, and the same in words."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from models.errors import ParamsError
from pipeline.benchmark.timing.confidence import CONFIDENCE_PCT, QUIET, RESAMPLES
from pipeline.core.params import Benchmark


def protocol(settings: Benchmark, threads: int) -> dict[str, Any]:
    """Return all about a measurement that is no result; `threads` are those of each engine."""
    return {
        **settings.model_dump(include={"batch_sizes", "warmup", "rounds", "repeats", "full_pass"}),
        "untimed_calls_per_turn": 1,
        "order": "interleaved; every round in a new random order",
        "threads": threads,
        "cores": usable(),
        "pinned": settings.cores is not None,
        "clock": "time.perf_counter_ns; device: CUDA events",
        "host": "from images in host memory to logits in host memory",
        "device": "images and logits on the device, without copies and host",
        "garbage_collection": "off",
        "compared": f"{100 * QUIET:.0f}th percentile of the calls, the quiet latency",
        "interval": f"{CONFIDENCE_PCT} %, bootstrap over rounds, {RESAMPLES} resamples",
        "timed": "engines whose own bytes passed the parity chain",
    }


def protocol_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the protocol as sentences to print beside a table."""
    warmup = facts["warmup"]
    cores = ", ".join(map(str, facts["cores"])) or "unknown"
    return [
        f"Timed: {facts['timed']}.",
        f"Host time: {facts['host']}. Device time: {facts['device']} (CUDA events).",
        f"{facts['rounds']} rounds × {facts['repeats']} calls, engines in turn in random order, "
        f"the first call of every turn untimed. Compared: the {facts['compared']}, with its "
        f"interval ({facts['interval']}).",
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
    """Return the CPU cores this process may run on; empty where the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def pinned(cores: list[int] | None) -> Iterator[None]:
    """Keep this process, and the threads it starts, on these CPU cores; None leaves them free.

    Raises:
        ParamsError: the process may not use one of them.
    """
    before = usable()
    if cores and not set(cores) <= set(before):
        raise ParamsError(
            f"benchmark.cores = {cores}: this process may use {before or 'no chosen cores here'}; "
            "name some of these, or null"
        )
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, before)
