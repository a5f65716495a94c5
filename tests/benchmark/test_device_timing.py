"""Timing, memory and meters on a CUDA device; `make device-check` runs these too."""

from pathlib import Path

import onnx
import pytest
import torch
from tiny_onnx import some_images
from typed_onnx import write_typed

from models.errors import BackendUnavailable
from pipeline.benchmark.conditions import gpus
from pipeline.benchmark.measurement import benchmark
from pipeline.benchmark.proven_engines import Engines, ProvenEngine
from pipeline.benchmark.records import BenchmarkMetrics
from pipeline.core.hardware import cuda_devices
from pipeline.core.params import Batch, Benchmark, Build, WarmUp
from pipeline.engines.backends.build import build_engine
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.registry import BACKENDS
from pipeline.export.boundaries import record_boundaries

pytestmark = pytest.mark.device

SIZES = [1, 8]


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def metrics(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BenchmarkMetrics:
    if not cuda_devices():
        pytest.skip("no CUDA device")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} cannot use {cuda_devices()[0].name}")
    monkeypatch.chdir(tmp_path)
    options = Build(
        backends=[],
        compute_capabilities=[cuda_devices()[0].compute_capability],
        batch=Batch(min=1, opt=4, max=8),
    )
    try:
        BACKENDS[request.param].check()
        BACKENDS[request.param].runnable(options)
    except BackendUnavailable as e:
        pytest.skip(str(e))
    source = write_typed(tmp_path / "fp32.onnx", "fp32")
    job = Job(source, tmp_path / "engine", "fp32", options)
    build_engine(request.param, job)
    record_boundaries(model := onnx.load(source), [])
    onnx.save(model, source)
    engine = ProvenEngine("dense", 0, "fp32", request.param, (), 90.0, 90.0, job.target, source)
    how = Benchmark(batch_sizes=SIZES, warmup=WarmUp(), rounds=10, repeats=5)
    return benchmark(Engines([engine], [], {}), some_images(8), how, {})


def test_device_and_host_times_in_one_run(metrics: BenchmarkMetrics) -> None:
    """Device times stand beside the host times of the same rounds, and are smaller."""
    assert [one.batch for one in metrics.latencies] == SIZES
    for one in metrics.latencies:
        assert one.device_quiet_ms is not None
        assert 0 < one.device_quiet_ms < one.quiet_ms
    assert sum(layer.ms for layer in metrics.layers) > 0


def test_memory_on_the_device(metrics: BenchmarkMetrics) -> None:
    """The memory that an engine takes on the device is measured in a process of its own."""
    assert metrics.no_memory == {}
    on_device = [one for one in metrics.memory if one.place == "device"]
    assert [one.batch for one in on_device] == SIZES
    assert all(one.loaded_bytes > 0 for one in on_device)


def test_clocks_and_energy_of_the_device(metrics: BenchmarkMetrics) -> None:
    """NVML reports clocks, zeus the energy of an image."""
    if not {"gpu", "soc"} - set(metrics.no_energy):
        pytest.skip(f"no meter of the device: {metrics.no_energy}")
    used = [one for one in metrics.energy if not one.meter.startswith("cpu")]
    assert used
    if "gpus" not in metrics.conditions["after"]["absent"]:
        assert gpus()[0]["sm_mhz"] > 0
