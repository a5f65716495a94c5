"""The step `benchmark`: the latencies of one variant, and what each removed block saved.

Which engines may be timed is in `pipeline.contenders`, how in `pipeline.measurement`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.attribution import Saving, savings
from pipeline.contenders import Contender, Metrics, Refusal, contenders, not_timed
from pipeline.engines.interface import Images, LayerTime
from pipeline.footprint import footprints
from pipeline.layer_profile import homes, shares
from pipeline.measurement import Measured, Timed, measure_engines, numbers
from pipeline.onnx_graph import load_onnx
from pipeline.params import Params
from pipeline.timing import Latency, latency, no_garbage_collection, stopwatch

Tree = dict[str, Any]  # nested by precision, backend and batch size


def measure(run: Callable[[], object], *, warmup: int, repeats: int) -> Latency:
    """Time `repeats` calls of `run`, after `warmup` calls that are not timed.

    `run` must return only when its work is done: a GPU has to be waited for. The interval takes
    the calls for independent of each other.
    """
    for _ in range(warmup):
        run()
    timer = stopwatch(run)
    with no_garbage_collection():
        durations = np.array([[timer()] for _ in range(repeats)])
    return latency(durations)


def benchmark(
    variant: str,
    built: Metrics,
    verified: Metrics,
    engines: Path,
    *,
    graph: Callable[[Contender], Path],
    images: Images,
    params: Params,
) -> dict[str, Any]:
    """Time every engine of a variant that is proven and can run here.

    Args:
        variant: its name.
        built: the build metrics.
        verified: the verify metrics.
        engines: the folder which the files of the build metrics lie in.
        graph: returns the ONNX file that an engine was built from.
        images: normalised; repeated where a batch is larger.
        params: `benchmark` says how to time, `build` what the engines were built for.

    Returns:
        The benchmark metrics, but for the facts about the machine.

    Raises:
        ArtifactError: an engine file is missing.
        ParamsError, BackendError: as `measure_engines`.
    """
    timed, refused = contenders(variant, built, verified, engines, params.build)
    measured = measure_engines(timed, images, params.benchmark)
    profiles = {one: _profile(layers, graph(one)) for one, layers in measured.layers.items()}
    threads, sizes = measured.protocol["threads"], measured.protocol["batch_sizes"]
    memory, no_memory = footprints(timed, images.shape[1:], sizes, threads)
    removed = {level["level"]: level["removed"] for level in built["levels"]}
    saved = _savings(measured, removed)
    return {
        "protocol": measured.protocol,
        "conditions": measured.conditions,
        "not_timed": not_timed(built, timed, refused),
        "no_energy": measured.no_energy,
        "no_memory": no_memory,
        "levels": [
            {
                "level": level,
                "removed": blocks,
                "latency_ms": _latencies(measured, level),
                "warmup": _warmups(measured, level),
                "saved_ms": saved.get(level, {}),
                "memory": _by_engine(memory, level),
                "energy_mj_per_image": _by_engine(measured.energy, level),
                "profile_ms": _by_engine(profiles, level),
                "not_timed": _reasons(refused, level),
            }
            for level, blocks in removed.items()
        ],
    }


def _latencies(measured: Measured, level: int) -> Tree:
    """Return ``{precision: {backend: {batch: {p50, p50_ci, p90, p99, images_per_s, device}}}}``."""
    tree: Tree = {}
    for one, size, timed in _of_level(measured, level):
        _put(tree, (one.precision, one.backend, str(size)), _latency_entry(timed, size))
    return tree


def _latency_entry(timed: Timed, size: int) -> dict[str, Any]:
    entry = numbers(timed.host)
    entry["images_per_s"] = round(1e3 * size / entry["p50"], 1)
    if timed.device is not None:
        entry["device"] = {**numbers(timed.device), "how": timed.device_how}
    return entry


def _warmups(measured: Measured, level: int) -> Tree:
    tree: Tree = {}
    for one, size, timed in _of_level(measured, level):
        _put(tree, (one.precision, one.backend, str(size)), asdict(timed.warmup))
    return tree


def _profile(layers: Sequence[LayerTime], graph: Path) -> dict[str, Any]:
    """Return the layers' times by block: ``{blocks, outside_blocks, fused_across_blocks, …}``."""
    found = asdict(shares(layers, homes(load_onnx(graph))))
    return {
        row: {name: round(ms, 4) for name, ms in share.items()}
        if isinstance(share, dict)
        else round(share, 4)
        for row, share in found.items()
    }


def _by_engine(values: Mapping[Contender, Mapping[str, Any]], level: int) -> Tree:
    tree: Tree = {}
    for one, value in values.items():
        if one.level == level and value:
            _put(tree, (one.precision, one.backend), value)
    return tree


def _reasons(refused: Sequence[Refusal], level: int) -> Tree:
    tree: Tree = {}
    for refusal in refused:
        if refusal.level == level:
            _put(tree, (refusal.precision, refusal.backend), refusal.reason)
    return tree


def _savings(measured: Measured, removed: Mapping[int, Sequence[str]]) -> dict[int, Tree]:
    """Return by level ``{precision: {backend: {batch: {blocks, since_level, ms, ms_ci}}}}``."""
    trees: dict[int, Tree] = {}
    for size, timings in measured.timings.items():
        kinds = dict.fromkeys((one.precision, one.backend) for one in timings)
        for kind in kinds:
            durations = {
                one.level: timed.host
                for one, timed in timings.items()
                if (one.precision, one.backend) == kind
            }
            for level, saving in savings(removed, durations).items():
                _put(trees.setdefault(level, {}), (*kind, str(size)), _rounded(saving))
    return trees


def _rounded(saving: Saving) -> dict[str, Any]:
    entry = asdict(saving) | {"ms": round(saving.ms, 4)}
    if saving.ms_ci is None:
        del entry["ms_ci"]
    else:
        entry["ms_ci"] = [round(ms, 4) for ms in saving.ms_ci]
    return entry


def _of_level(measured: Measured, level: int) -> Iterator[tuple[Contender, int, Timed]]:
    for size, timings in measured.timings.items():
        for one, timed in timings.items():
            if one.level == level:
                yield one, size, timed


def _put(tree: Tree, path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
