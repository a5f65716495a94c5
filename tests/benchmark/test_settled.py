"""A run that watches itself: drift, other work, engines of one structure that are not as fast."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from proven_engines import OPTIONS, write_variant
from summaries import network
from tiny_onnx import some_images, write_network

from pipeline.benchmark.measurement import benchmark
from pipeline.benchmark.proven_engines import Engines, proven_engines
from pipeline.benchmark.records import BenchmarkMetrics
from pipeline.benchmark.settled import unsettled
from pipeline.benchmark.timing.disturbance import OtherWork, drift_pct
from pipeline.core.params import Benchmark, Choose, WarmUp
from pipeline.export.structure import structure
from pipeline.report.recommendation import choose
from pipeline.report.records import EngineRow

HOW = Benchmark(
    batch_sizes=[16],
    warmup=WarmUp(window=2, within_pct=50.0, max_calls=10),
    rounds=12,
    repeats=3,
    threads=1,
)
TARGET = {"cpu": "a CPU", "devices": [], "versions": {"onnxruntime": "1.0"}}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Of two variants of the same three structures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("twins"))
        for variant in ("dense", "lacoot"):
            write_variant(variant, depths=(12, 6, 2))
        yield proven_engines(["dense", "lacoot"], OPTIONS)


@pytest.fixture(scope="module")
def run(engines: Engines) -> BenchmarkMetrics:
    return measured(engines)


def measured(engines: Engines, **changes: object) -> BenchmarkMetrics:
    return benchmark(engines, some_images(4), HOW.model_copy(update=changes), TARGET)


def recommended(run: BenchmarkMetrics) -> tuple[str, int, str]:
    """Return what is recommended of engines that are all as accurate as their level says."""
    rows, networks = [], []
    for one in run.latencies:
        of = network(one.variant, one.level, 90.0 - 0.1 * one.level, precision=one.precision)
        accuracies = (of.val_accuracy_pct, of.test_accuracy_pct)
        times = (one.quiet_ms, one.quiet_ci_ms, one.p50_ms, one.p90_ms, one.p99_ms)
        networks.append(of)
        rows.append(EngineRow(*of.key, one.backend, 40, {}, *accuracies, one.batch, *times))
    chosen = choose(networks, rows, Choose()).chosen
    assert chosen is not None
    return chosen.level, chosen.removed


BUSY = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:  # a core half of the time
    begun = time.monotonic()
    while time.monotonic() - begun < 0.1:
        pass
    time.sleep(0.1)
"""


def test_the_recommendation_is_the_same_where_another_process_takes_a_core_half_of_the_time(
    engines: Engines,
) -> None:
    exact = [one for one in engines.proven if (one.variant, one.precision) == ("dense", "fp32")]
    engines = replace(engines, proven=exact)
    alone = measured(engines)
    with subprocess.Popen([sys.executable, "-c", BUSY, "120"]) as other:
        try:
            beside = measured(engines)
        finally:
            other.kill()
    assert recommended(beside) == recommended(alone) == (2, 2)
    assert beside.conditions["cores_of_others"] > 0.1


def test_engines_of_one_structure_are_known_by_it(tmp_path: Path) -> None:
    graphs = []
    for number, (depth, seed) in enumerate([(3, 0), (3, 1), (4, 0)]):
        write_network(tmp_path / f"{number}.onnx", depth, seed=seed)
        graphs.append(onnx.load(tmp_path / f"{number}.onnx"))
    first, other_weights, deeper = map(structure, graphs)
    assert first == other_weights != deeper
    for node in graphs[0].graph.node:
        node.name += " renamed"
    assert structure(graphs[0]) == first
    attribute = next(one for node in graphs[0].graph.node for one in node.attribute if one.ints)
    attribute.ints[0] += 1
    assert structure(graphs[0]) != first


class Quiet(OtherWork):
    """A machine that did nothing else."""

    def __init__(self, cores: float = 0.0) -> None:
        super().__init__(threads=1)
        self.cores = cores

    @property
    def share(self) -> float:
        return self.cores


def test_what_disturbs_a_run_is_told_and_nothing_else(
    engines: Engines, run: BenchmarkMetrics
) -> None:
    steady = [replace(one, quiet_ms=1.0, quiet_ci_ms=(0.99, 1.01)) for one in run.latencies]
    flat = {one: np.ones((8, 2)) for one in engines.proven}
    assert unsettled(flat, steady, Quiet()) == []
    [busy] = unsettled(flat, steady, Quiet(0.5))
    assert busy == "other processes took 0.50 cores while engines were timed"
    slowing = np.repeat(np.linspace(1, 2, 8)[:, None], 2, axis=1)
    [drift] = unsettled(flat | {engines.proven[0]: slowing}, steady, Quiet())
    assert drift.startswith("the reference dense level 0 fp32 on onnxruntime was up to")
    slow = replace(steady[-1], quiet_ms=3.5, quiet_ci_ms=(3.4, 3.6))
    [twins] = unsettled(flat, [*steady[:-1], slow], Quiet())
    assert twins == (
        "the same graph took 1.00 ms (dense level 2 int8) and 3.50 ms (lacoot level 2 int8) on "
        "onnxruntime"
    )
    unsure = replace(slow, quiet_ci_ms=(0.9, 3.6))
    assert unsettled(flat, [*steady[:-1], unsure], Quiet()) == [], "within the noise"


def test_other_work_is_what_this_process_has_not_done() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            watch = OtherWork(threads=1)
            time.sleep(1.0)
            watch.stop()
        finally:
            other.kill()
    assert watch.cores > 0.3
    watch.cores, watch.threads = 1.5, 10_000
    assert watch.share < 0.001


def test_drift_is_between_parts_of_a_run() -> None:
    steady = np.random.default_rng(0).uniform(1.0, 1.01, (20, 3))
    assert drift_pct(steady) < 1
    steady[10:] *= 1.5
    assert 45 < drift_pct(steady) < 52
    assert drift_pct(np.ones((1, 3))) == 0


def test_of_many_engines_those_near_the_front_are_timed_in_full(engines: Engines) -> None:
    less = [
        replace(one, val_accuracy_pct=one.val_accuracy_pct - 20 * (one.variant == "lacoot"))
        for one in engines.proven
        if one.precision == "fp32"
    ]
    run = measured(replace(engines, proven=less), full_pass=3)
    full = {one.key for one in run.latencies}
    assert ("dense", 0, "fp32", "onnxruntime") in full, "the reference"
    assert ("lacoot", 0, "fp32", "onnxruntime") not in full, "slow, and 20 points worse"
    short = {one.key: one for one in run.ratios}
    assert full | set(short) == {one.key for one in less}
    assert not full & set(short)
    assert {one.key for one in run.engines} == {one.key for one in run.memory} == full
    one = short["lacoot", 0, "fp32", "onnxruntime"]
    assert one.reference == "dense level 0 fp32"
    low, high = one.ratio_ci
    assert 0 < low <= one.ratio <= high


def test_a_variant_has_its_own_records_of_the_run(run: BenchmarkMetrics) -> None:
    own = run.of("lacoot")
    assert {one.variant for one in own.latencies} == {"lacoot"}
    assert own.protocol == run.protocol
    assert len(own.latencies) + len(run.of("dense").latencies) == len(run.latencies)
