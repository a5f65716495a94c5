"""One measurement of real engines of tiny networks, and of a device made of sleep."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import FIXED
from proven_engines import OPTIONS, REMOVED, VariantMetrics, write_variant
from stage_process import run_stage
from tiny_onnx import some_images

from models.hashing import file_sha256
from pipeline.benchmark.measurement import benchmark, percentiles
from pipeline.benchmark.proven_engines import proven_engines
from pipeline.benchmark.records import BenchmarkMetrics, EngineLatency, LayerShare
from pipeline.benchmark.timing.protocol import protocol
from pipeline.core.artifacts import read_json
from pipeline.core.params import Benchmark, WarmUp
from pipeline.core.records import read_record, write_record
from pipeline.engines.backends.interface import Bound, LayerTime
from pipeline.engines.backends.registry import BACKENDS
from pipeline.export.boundaries import Boundary, record_boundaries

HOW = Benchmark(
    batch_sizes=[1, 9],
    warmup=WarmUp(window=2, within_pct=50.0, max_calls=10),
    rounds=5,
    repeats=2,
    threads=1,
)
TARGET = {"cpu": "a CPU", "devices": [], "versions": {"onnxruntime": "1.0"}}


def measured(variant: VariantMetrics, how: Benchmark) -> BenchmarkMetrics:
    images = some_images(4)  # fewer than the batch
    variant.write()
    return benchmark(proven_engines(["dense"], OPTIONS), images, how, TARGET)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> BenchmarkMetrics:
    """Of three levels in two precisions, int8 of level 1 having failed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("benchmark"))
        failed = {"status": "failed", "reason": "cosine 0.51 < 0.97"}
        return measured(write_variant().with_check(1, "int8", "onnxruntime", **failed), HOW)


def latency(metrics: BenchmarkMetrics, *key: object, batch: int = 9) -> EngineLatency:
    [found] = [
        one for one in metrics.latencies if one.key == ("dense", *key) and one.batch == batch
    ]
    return found


def test_every_proven_engine_is_timed_at_every_batch_size(metrics):
    proven = {(level, p) for level in range(3) for p in ("fp32", "int8")} - {(1, "int8")}
    assert {(one.level, one.precision) for one in metrics.engines} == proven
    assert [list(one.removed) for one in metrics.engines if one.precision == "fp32"] == REMOVED
    assert len(metrics.latencies) == 2 * len(proven)
    for one in metrics.latencies:
        low, high = one.quiet_ci_ms
        assert 0 < low <= one.quiet_ms <= high
        assert one.quiet_ms <= one.p50_ms <= one.p90_ms <= one.p99_ms
        assert one.images_per_s == pytest.approx(1e3 * one.batch / one.quiet_ms, rel=1e-2)
        assert one.device_quiet_ms is None, "no device, no device time"
        assert 6 <= one.warmup_calls <= 10
    p50s = [latency(metrics, level, "fp32", "onnxruntime").quiet_ms for level in range(3)]
    assert p50s == sorted(p50s, reverse=True)


def test_an_engine_that_failed_parity_has_no_numbers_but_a_reason(metrics):
    reasons = {one.key: one.reason for one in metrics.skipped}
    failed = ("dense", 1, "int8", "onnxruntime")
    assert reasons[failed] == "parity failed: cosine 0.51 < 0.97"
    assert failed not in {one.key for one in [*metrics.latencies, *metrics.memory]}
    assert metrics.not_timed == {
        "tensorrt": "not built: tensorrt is not installed",
        "tensorrt_rtx": "parity not run: no CUDA device",
    }


def test_each_removed_block_has_what_it_saved(metrics):
    saved = {(one.level, one.precision): one for one in metrics.savings if one.batch == 9}
    assert set(saved) == {(1, "fp32"), (2, "fp32"), (2, "int8")}
    assert saved[1, "fp32"].blocks == ["layer1.0"]
    assert saved[2, "fp32"].blocks == ["layer2.1"]
    p50s = [latency(metrics, level, "fp32", "onnxruntime").quiet_ms for level in range(3)]
    of_levels = [saved[level, "fp32"] for level in (1, 2)]
    assert [one.ms for one in of_levels] == pytest.approx(-np.diff(p50s), abs=2e-4)
    for one in of_levels:
        low, high = one.ms_ci
        assert low <= one.ms <= high
        assert low > 0, "four convolutions fewer are faster beyond the noise"
    past_the_failed = saved[2, "int8"]
    assert (past_the_failed.blocks, past_the_failed.since_level) == (["layer1.0", "layer2.1"], 0)


def test_the_protocol_and_the_state_of_the_machine_stand_beside_the_results(metrics, tmp_path):
    assert metrics.protocol == protocol(HOW, threads=1)
    for when in ("before", "after"):
        conditions = metrics.conditions[when]
        missing = {"cpu_mhz", "temperature_c", "load_1min", "gpus"} - set(conditions)
        assert missing == set(conditions["absent"])
    write_record(tmp_path / "metrics.json", metrics)
    assert read_record(tmp_path / "metrics.json", BenchmarkMetrics) == metrics


def test_every_timed_engine_has_its_memory_and_energy_or_a_reason(metrics):
    assert metrics.no_memory == {}
    timed = {one.key for one in metrics.engines}
    assert {one.key for one in metrics.memory} == timed
    for one in metrics.energy:
        assert one.key in timed
        assert one.mj_per_image > 0
    assert metrics.energy or set(metrics.no_energy) == {"gpu", "cpu", "soc"}


@given(arrays(np.float64, (4, 3), elements=st.floats(0.001, 1e5)))
def test_numbers_are_ordered_after_rounding(durations):
    quiet, (low, high), p50, p90, p99 = percentiles(durations)
    assert low <= quiet <= high
    assert quiet <= p50 <= p90 <= p99


def test_the_stage_on_real_images(tmp_path, prepared, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load(FIXED.read_text())
    params["benchmark"] |= {"batch_sizes": [2], "rounds": 2}
    params["variants"] = {"dense": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_variant(size=32, depths=(4, 1))
    (tmp_path / "artifacts/prepare").symlink_to(prepared)
    for stage in (["probe"], ["benchmark"]):
        done = run_stage(*stage, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "2 rounds × 2 calls" in done.stdout
    metrics = read_record(tmp_path / "metrics/benchmark.json", BenchmarkMetrics)
    for one in metrics.latencies:
        key = ["dense", str(one.level), one.precision, one.backend]
        [line] = [line for line in done.stdout.splitlines() if line.split()[1:8:2] == key]
        assert f"{one.quiet_ms:.2f}" in line
    target = read_json(tmp_path / "artifacts/probe/target.json")
    assert metrics.target["cpu"] == target["cpu"]
    version = target["backends"]["onnxruntime"]["version"]
    assert metrics.target["versions"]["onnxruntime"] == version
    assert metrics.protocol["threads"] == target["cores"]


HOST_MS, DEVICE_MS = 4.0, 1.0


def open_on_the_device(path: Path, threads: int):
    """Open an engine whose host time is a sleep and whose device time is what it says."""
    cores = os.sched_getaffinity(0)

    def run():
        assert os.sched_getaffinity(0) == cores, "opened on other cores than run on"
        time.sleep(HOST_MS / 1e3)
        return np.zeros((1, 5), np.float32)

    def layers():
        return [LayerTime("conv0 + relu0", 0.25), LayerTime("conv1 + relu1 + pool", 0.5)]

    return lambda images: Bound(run, lambda: DEVICE_MS * len(images), "CUDA graph", layers)


def write_graph(path: Path) -> None:
    """Write a stem, a block and a head that hold the layers' nodes."""
    names = [("conv0", "images", "a"), ("relu0", "a", "begin"), ("conv1", "begin", "b")]
    names += [("relu1", "b", "end"), ("pool", "end", "logits")]
    nodes = [onnx.helper.make_node("Relu", [begin], [end], name) for name, begin, end in names]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])
        for name in ("images", "logits")
    ]
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    record_boundaries(model, [Boundary("layer1.0", ["begin"], ["end"], "")])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def test_a_device_has_times_and_layers_of_its_own_on_the_cores_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device = SimpleNamespace(runnable=lambda options: None, load=open_on_the_device)
    monkeypatch.setitem(BACKENDS, "tensorrt_rtx", device)
    variant = write_variant(depths=(2, 1))
    plan = file_sha256(Path("artifacts/build/dense/fp32/tensorrt_rtx/level_0.engine"))
    passed = {"status": "passed", "val_accuracy_pct": 90.0, "test_accuracy_pct": 89.0}
    for level in (0, 1):
        variant = variant.with_check(level, "fp32", "tensorrt_rtx", sha256=plan, **passed)
        write_graph(Path(f"artifacts/precision/dense/fp32/level_{level}.onnx"))
    how = {"batch_sizes": [1, 2], "rounds": 3, "threads": None, "cores": [0]}
    metrics = measured(variant, HOW.model_copy(update=how))
    for one in metrics.latencies:
        if one.backend == "tensorrt_rtx":
            assert one.quiet_ms >= HOST_MS
            assert one.device_how == "CUDA graph"
            assert one.device_quiet_ms == one.device_p99_ms == DEVICE_MS * one.batch
        else:
            assert one.device_quiet_ms is None
    key = ("dense", 0, "fp32", "tensorrt_rtx")
    assert [one for one in metrics.layers if one.level == 0] == [
        LayerShare(*key, "outside blocks", "", 0.25),
        LayerShare(*key, "fused across blocks", "layer1.0 + outside", 0.5),
    ]
    assert {one.backend for one in metrics.layers} == {"tensorrt_rtx"}
    assert (metrics.protocol["cores"], metrics.protocol["pinned"]) == ([0], True)
    assert metrics.protocol["threads"] == 1
    # The process that measures memory has no such device; the others' memory is there.
    assert set(metrics.no_memory) == {"tensorrt_rtx"}
    assert {one.backend for one in metrics.memory} == {"onnxruntime"}
