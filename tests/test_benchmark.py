import gc
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from stage_process import run_stage
from tiny_onnx import some_images, write_network

from models.errors import ParityError
from pipeline.benchmark import benchmark, measure, measure_interleaved
from pipeline.build import build
from pipeline.engines.machine import cuda_devices
from pipeline.params import Benchmark, load_params

ROOT = Path(__file__).parent.parent
LEVELS = [
    {"level": 0, "removed": [], "file": "level_0.onnx"},
    {"level": 1, "removed": ["layer1.0"], "file": "level_1.onnx"},
]


def test_percentiles_are_those_of_the_timed_calls(monkeypatch):
    durations_ms = np.random.default_rng(0).exponential(5, 101)
    ends = [np.int64(ms * 1e6) for ms in durations_ms]
    clock = itertools.chain.from_iterable((0, end) for end in ends)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    latency = measure(lambda: None, warmup=3, repeats=101)
    expected = np.percentile(durations_ms, [50, 90, 99])
    np.testing.assert_allclose([latency.p50, latency.p90, latency.p99], expected, rtol=1e-5)
    assert latency.samples == 101


def test_latency_is_in_milliseconds():
    latency = measure(lambda: time.sleep(0.02), warmup=0, repeats=3)
    assert 20 <= latency.p50 <= latency.p90 <= latency.p99 < 500


def test_warmup_calls_are_made_first_and_not_counted():
    pauses = iter([0.05, 0.05] + 20 * [0.0])
    latency = measure(lambda: time.sleep(next(pauses)), warmup=2, repeats=20)
    assert next(pauses, None) is None, "a call was left out"
    assert latency.samples == 20
    assert latency.p50 < 20


def test_slower_is_measured_slower():
    runs = {"slow": lambda: time.sleep(0.006), "fast": lambda: time.sleep(0.001)}
    latencies = measure_interleaved(runs, warmup=1, rounds=5, repeats=2)
    assert latencies["slow"].p50 > latencies["fast"].p50
    assert latencies["slow"].samples == latencies["fast"].samples == 10


def called(keys, **how):
    """Return the keys in the order in which they were called."""
    calls = []
    measure_interleaved({key: lambda key=key: calls.append(key) for key in keys}, **how)
    return calls


def test_every_round_times_every_level_in_another_order():
    rounds, repeats = 12, 3
    calls = called("abcd", warmup=2, rounds=rounds, repeats=repeats)
    assert calls[:8] == list("aabbccdd")
    timed = calls[8:]
    assert len(timed) == rounds * 4 * repeats
    orders = []
    for i in range(0, len(timed), 4 * repeats):
        in_turn = timed[i : i + 4 * repeats]
        orders.append(tuple(in_turn[::repeats]))
        assert in_turn == [key for key in orders[-1] for _ in range(repeats)]
        assert sorted(orders[-1]) == list("abcd")
    assert len(set(orders)) > 6
    assert {order[0] for order in orders} == set("abcd"), "some level never comes first"


def test_orders_are_the_same_in_every_measurement():
    how = {"warmup": 0, "rounds": 10, "repeats": 1}
    assert called("abc", **how) == called("abc", **how)


def test_drift_hits_all_levels_alike(monkeypatch):
    """A machine that slows down steadily must not favour the level that is listed first."""
    now = itertools.count()
    clock = {"ns": 0}

    def work():
        clock["ns"] += 1_000_000 + 10_000 * next(now)  # 1 ms, and 1 % slower with every call

    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock["ns"])
    latencies = measure_interleaved(dict.fromkeys("abc", work), warmup=0, rounds=60, repeats=1)
    p50s = [latency.p50 for latency in latencies.values()]
    assert max(p50s) / min(p50s) < 1.05


@pytest.mark.parametrize("fails", [True, False])
def test_garbage_waits_until_the_timing_is_over(fails):
    enabled = []

    def run():
        enabled.append(gc.isenabled())
        if fails:
            raise RuntimeError("out of memory")

    if fails:
        with pytest.raises(RuntimeError):
            measure(run, warmup=0, repeats=2)
    else:
        measure(run, warmup=0, repeats=2)
    assert not any(enabled)
    assert gc.isenabled()


@pytest.fixture
def project(tmp_path):
    """Parameters, folders of engines and networks, and the build metrics of two levels."""
    params = load_params(ROOT / "params.yaml")
    how = Benchmark(batch_sizes=[1, 9], warmup=1, rounds=3, repeats=2, threads=1)
    options = params.build.model_copy(
        update={"backends": ["onnxruntime", "tensorrt_rtx", "tensorrt"]}
    )
    params = params.model_copy(update={"benchmark": how, "build": options})
    engines, networks = tmp_path / "build", tmp_path / "collapse"
    engines.mkdir()
    networks.mkdir()
    for level, depth in enumerate((8, 1)):
        write_network(networks / f"level_{level}.onnx", depth, width=32)
    return params, engines, networks, build(LEVELS, networks, engines, options)


def test_every_engine_that_can_run_is_timed_at_every_batch_size(project):
    params, engines, networks, built = project
    timed = benchmark(built, engines, networks, some_images(4), params)  # fewer than the batch
    assert [level["removed"] for level in timed["levels"]] == [[], ["layer1.0"]]
    for level in timed["levels"]:
        batches = level["latency_ms"]["onnxruntime"]
        assert list(batches) == ["1", "9"]
        for size, times in batches.items():
            assert 0 < times["p50"] <= times["p90"] <= times["p99"]
            assert times["images_per_s"] == pytest.approx(1e3 * int(size) / times["p50"], rel=1e-2)
        assert level["parity"]["onnxruntime"] < 1e-5
    deep, shallow = (level["latency_ms"]["onnxruntime"]["9"]["p50"] for level in timed["levels"])
    assert shallow < deep
    protocol = timed["protocol"]
    assert protocol["precision"]["onnxruntime"] == "fp32"
    assert (protocol["warmup"], protocol["rounds"], protocol["repeats"]) == (1, 3, 2)
    assert (protocol["threads"], protocol["batch_sizes"]) == (1, [1, 9])


@pytest.mark.skipif(bool(cuda_devices()), reason="has a CUDA device")
def test_engines_that_cannot_run_here_are_listed_with_the_reason(project):
    params, engines, networks, built = project
    timed = benchmark(built, engines, networks, some_images(9), params)
    assert set(timed["not_timed"]) == {"tensorrt_rtx", "tensorrt"}
    assert "no CUDA device" in timed["not_timed"]["tensorrt_rtx"] or (
        "not built" in timed["not_timed"]["tensorrt_rtx"]  # no such package for this platform
    )
    assert timed["not_timed"]["tensorrt"].startswith("not built: ")
    assert all(set(level["latency_ms"]) == {"onnxruntime"} for level in timed["levels"])


def test_an_engine_with_other_logits_is_not_timed(project):
    params, engines, networks, built = project
    write_network(networks / "level_1.onnx", depth=1, width=32, seed=1)
    with pytest.raises(ParityError, match=r"onnxruntime engine of .*level_1\.onnx is off by"):
        benchmark(built, engines, networks, some_images(9), params)


def test_stages_from_probe_to_latencies_on_real_images(tmp_path, prepared):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["benchmark"] |= {"batch_sizes": [2], "rounds": 2, "threads": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    collapsed = tmp_path / "artifacts/collapse/dense"
    collapsed.mkdir(parents=True)
    (tmp_path / "artifacts/prepare").symlink_to(prepared)
    for level, depth in enumerate((4, 1)):
        write_network(collapsed / f"level_{level}.onnx", depth, size=32)
    (tmp_path / "metrics/collapse").mkdir(parents=True)
    (tmp_path / "metrics/collapse/dense.json").write_text(json.dumps({"levels": LEVELS}))
    for stage in (["probe"], ["build", "dense"], ["benchmark", "dense"]):
        done = run_stage(*stage, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "dense: level 0  onnxruntime p50" in done.stdout
    metrics = json.loads((tmp_path / "metrics/benchmark/dense.json").read_text())
    assert set(metrics) == {"variant", "target", "protocol", "not_timed", "levels"}
    target = json.loads((tmp_path / "artifacts/probe/target.json").read_text())
    assert metrics["target"]["cpu"] == target["cpu"]
    version = target["backends"]["onnxruntime"]["version"]
    assert metrics["target"]["versions"]["onnxruntime"] == version
    assert metrics["protocol"]["threads"] == target["cores"]
