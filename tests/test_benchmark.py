"""The step `benchmark` on real engines of tiny networks, and `measure`."""

import gc
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from proven_engines import REMOVED, verified, write_engines
from stage_process import run_stage
from tiny_onnx import some_images

from models.errors import ParamsError
from pipeline.benchmark import benchmark, measure
from pipeline.params import Benchmark, WarmUp, load_params

ROOT = Path(__file__).parent.parent


def test_percentiles_are_those_of_the_timed_calls(monkeypatch):
    durations_ms = np.random.default_rng(0).exponential(5, 101)
    ends = [np.int64(ms * 1e6) for ms in durations_ms]
    clock = itertools.chain.from_iterable((0, end) for end in ends)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    latency = measure(lambda: None, warmup=3, repeats=101)
    expected = np.percentile(durations_ms, [50, 90, 99])
    np.testing.assert_allclose([latency.p50, latency.p90, latency.p99], expected, rtol=1e-5)
    assert latency.samples == 101
    low, high = latency.p50_ci
    assert low < latency.p50 < high


def test_warmup_calls_are_made_first_and_not_counted():
    pauses = iter([0.05, 0.05] + 20 * [0.0])
    latency = measure(lambda: time.sleep(next(pauses)), warmup=2, repeats=20)
    assert next(pauses, None) is None, "a call was left out"
    assert latency.samples == 20
    assert latency.p50 < 20


def test_garbage_waits_until_the_timing_is_over():
    enabled = []
    measure(lambda: enabled.append(gc.isenabled()), warmup=0, repeats=2)
    assert enabled == [False, False]
    assert gc.isenabled()


def no_graph(one):
    raise AssertionError(f"no profiler on the CPU, so no need of the graph of {one}")


@pytest.fixture(scope="module")
def params():
    params = load_params(ROOT / "params.yaml")
    how = Benchmark(
        batch_sizes=[1, 9],
        warmup=WarmUp(window=2, within_pct=50.0, max_calls=10),
        rounds=5,
        repeats=2,
        threads=1,
    )
    return params.model_copy(update={"benchmark": how})


@pytest.fixture(scope="module")
def metrics(params, tmp_path_factory):
    """Benchmark metrics of three levels in two precisions, int8 of level 1 having failed."""
    folder = tmp_path_factory.mktemp("build")
    built = write_engines(folder)
    proven = verified(built, folder)
    for rung in proven["levels"][1]["rungs"]:
        if (rung["precision"], rung["backend"]) == ("int8", "onnxruntime"):
            rung |= {"status": "failed", "reason": "cosine 0.51 < 0.97"}
    images = some_images(4)  # fewer than the batch
    return benchmark("dense", built, proven, folder, graph=no_graph, images=images, params=params)


def test_every_proven_engine_is_timed_at_every_batch_size(metrics):
    assert [level["removed"] for level in metrics["levels"]] == REMOVED
    for level in metrics["levels"]:
        batches = level["latency_ms"]["fp32"]["onnxruntime"]
        assert list(batches) == ["1", "9"]
        for size, times in batches.items():
            low, high = times["p50_ci"]
            assert 0 < low <= times["p50"] <= high
            assert times["p50"] <= times["p90"] <= times["p99"]
            assert times["images_per_s"] == pytest.approx(1e3 * int(size) / times["p50"], rel=1e-2)
            assert "device" not in times, "no device, no device time"
            warmup = level["warmup"]["fp32"]["onnxruntime"][size]
            assert 6 <= warmup["calls"] <= 10
    p50s = [level["latency_ms"]["fp32"]["onnxruntime"]["9"]["p50"] for level in metrics["levels"]]
    assert p50s == sorted(p50s, reverse=True)


def test_an_engine_that_failed_parity_has_no_latency_but_a_reason(metrics):
    level = metrics["levels"][1]
    assert "int8" not in level["latency_ms"]
    assert "int8" not in level["warmup"]
    assert level["not_timed"]["int8"] == {"onnxruntime": "parity failed: cosine 0.51 < 0.97"}
    assert level["not_timed"]["bf16"] == {"onnxruntime": "not built: no bf16 convolution"}
    assert metrics["not_timed"] == {
        "tensorrt": "not built: tensorrt is not installed",
        "tensorrt_rtx": "parity not run: no CUDA device",
    }


def test_each_removed_block_has_what_it_saved(metrics):
    first, second, third = metrics["levels"]
    assert first["saved_ms"] == {}
    saved = [level["saved_ms"]["fp32"]["onnxruntime"]["9"] for level in (second, third)]
    assert [one["blocks"] for one in saved] == [["layer1.0"], ["layer2.1"]]
    p50s = [
        level["latency_ms"]["fp32"]["onnxruntime"]["9"]["p50"] for level in (first, second, third)
    ]
    assert [one["ms"] for one in saved] == pytest.approx(-np.diff(p50s), abs=2e-4)
    for one in saved:
        low, high = one["ms_ci"]
        assert low <= one["ms"] <= high
        assert low > 0, "four convolutions fewer are faster beyond the noise"


def test_past_a_level_that_failed_the_blocks_are_counted_together(metrics):
    saved = metrics["levels"][2]["saved_ms"]["int8"]["onnxruntime"]["9"]
    assert (saved["blocks"], saved["since_level"]) == (["layer1.0", "layer2.1"], 0)


def test_the_protocol_and_the_state_of_the_machine_stand_beside_the_results(metrics):
    protocol = metrics["protocol"]
    assert protocol["warmup"] == {"window": 2, "within_pct": 50.0, "max_calls": 10}
    assert (protocol["rounds"], protocol["repeats"], protocol["threads"]) == (5, 2, 1)
    assert protocol["batch_sizes"] == [1, 9]
    assert protocol["pinned"] is False
    for when in ("before", "after"):
        conditions = metrics["conditions"][when]
        missing = {"cpu_mhz", "temperature_c", "load_1min", "gpus"} - set(conditions)
        assert missing == set(conditions["absent"])
    json.dumps(metrics, allow_nan=False)


def test_every_timed_engine_has_its_memory(metrics):
    assert metrics["no_memory"] == {}
    for level in metrics["levels"]:
        assert level["memory"].keys() == level["latency_ms"].keys()
        host = level["memory"]["fp32"]["onnxruntime"]["host"]
        assert host["loaded_bytes"] > 0
        assert host["activations_bytes"].keys() == host["peak_bytes"].keys() == {"1", "9"}


def test_energy_is_absent_with_the_reason_where_nothing_tells(metrics):
    for level in metrics["levels"]:
        for by_backend in level["energy_mj_per_image"].values():
            for used in by_backend.values():
                assert all(mj > 0 for mj in used.values())
    if not any(level["energy_mj_per_image"] for level in metrics["levels"]):
        assert set(metrics["no_energy"]) == {"rapl", "nvml", "tegrastats"}


def test_cores_that_the_process_may_not_use_are_refused(params, tmp_path):
    built = write_engines(tmp_path, depths=(1,))
    how = params.benchmark.model_copy(update={"cores": [0, 4095]})
    with pytest.raises(ParamsError, match=r"benchmark.cores = \[0, 4095\]: this process may use"):
        benchmark(
            "dense",
            built,
            verified(built, tmp_path),
            tmp_path,
            graph=no_graph,
            images=some_images(1),
            params=params.model_copy(update={"benchmark": how}),
        )


def test_the_stage_on_real_images(tmp_path, prepared):
    params = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    params["benchmark"] |= {"batch_sizes": [2], "rounds": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    engines = tmp_path / "artifacts/build/dense"
    built = write_engines(engines, size=32, depths=(4, 1))
    (tmp_path / "artifacts/prepare").symlink_to(prepared)
    for stage, content in {
        "build": built,
        "verify": verified(built, engines),
        "precision": {"levels": []},
    }.items():
        (tmp_path / "metrics" / stage).mkdir(parents=True)
        (tmp_path / "metrics" / stage / "dense.json").write_text(json.dumps(content))
    for stage in (["probe"], ["benchmark", "dense"]):
        done = run_stage(*stage, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "dense: level 0  fp32 onnxruntime p50" in done.stdout
    assert "2 rounds × 2 calls" in done.stdout
    metrics = json.loads((tmp_path / "metrics/benchmark/dense.json").read_text())
    target = json.loads((tmp_path / "artifacts/probe/target.json").read_text())
    assert metrics["variant"] == "dense"
    assert metrics["target"]["cpu"] == target["cpu"]
    version = target["backends"]["onnxruntime"]["version"]
    assert metrics["target"]["versions"]["onnxruntime"] == version
    assert metrics["protocol"]["threads"] == target["cores"]
