"""Timing, memory and meters on a CUDA device; `make device-check` runs these too."""

from pathlib import Path

import pytest
import torch
from tiny_onnx import some_images
from typed_onnx import write_typed

from models.errors import BackendUnavailable
from pipeline import meters
from pipeline.contenders import Contender
from pipeline.energy import energy_mj_per_image
from pipeline.engines import BACKENDS
from pipeline.engines.building import build_engine
from pipeline.engines.interface import Job
from pipeline.engines.machine import cuda_devices
from pipeline.footprint import footprints
from pipeline.measurement import measure_engines
from pipeline.meters import nvml
from pipeline.params import Batch, Benchmark, Build, WarmUp

pytestmark = pytest.mark.device

SIZES = [1, 8]


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Contender:
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
    job = Job(source, tmp_path / "engine", "fp32", options, tmp_path / "timings")
    build_engine(request.param, job)
    return Contender("dense", 0, "fp32", request.param, job.target, 90.0, 90.0)


def test_device_and_host_times_in_one_run(engine: Contender) -> None:
    """Device times stand beside the host times of the same rounds, and are smaller."""
    how = Benchmark(batch_sizes=SIZES, warmup=WarmUp(), rounds=10, repeats=5)
    measured = measure_engines([engine], some_images(8), how)
    for timings in measured.timings.values():
        timed = timings[engine]
        assert timed.device is not None
        assert timed.device.shape == timed.host.shape
        assert 0 < sorted(timed.device.ravel())[25] < sorted(timed.host.ravel())[25]
    assert sum(layer.ms for layer in measured.layers[engine]) > 0


def test_memory_on_the_device(engine: Contender) -> None:
    """The memory that an engine takes on the device is measured in a process of its own."""
    found, missing = footprints([engine], (1, 12, 12), SIZES, threads=1)
    assert missing == {}
    assert found[engine]["device"]["loaded_bytes"] > 0
    assert set(found[engine]["device"]["activations_bytes"]) == {"1", "8"}


def test_clocks_and_energy_of_the_device(engine: Contender) -> None:
    """NVML (or tegrastats on a Jetson) tells clocks, temperature and the energy of an image."""
    working, absent = meters.energy_meters()
    working = {name: start for name, start in working.items() if name != "rapl"}
    if not working:
        pytest.skip(f"no meter of the device: {absent}")
    bound = BACKENDS[engine.backend].load(engine.engine, 1)(some_images(8))
    used = energy_mj_per_image(bound.run, 8, working)
    assert used
    assert all(mj > 0 for mj in used.values())
    if "nvml" in working:
        assert nvml.gpus()[0]["sm_mhz"] > 0
