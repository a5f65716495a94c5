"""What only a CUDA device can prove (docs/device-checklist.md); `make device-check` runs it all.

The first line of each test says what it proves: the table of `make device-check` prints it.
"""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from places import IMPORTS, ROOT
from tiny_onnx import some_images
from typed_onnx import write_typed

from models.errors import BackendError, BackendUnavailable
from models.units import block_units
from models.zoo import create
from pipeline.core.arrays import Images
from pipeline.core.hardware import cuda_devices, cuda_driver
from pipeline.core.params import Batch, Build, Train
from pipeline.data.dataset import load
from pipeline.engines.backends.build import build, build_engine
from pipeline.engines.backends.inspection import TYPES
from pipeline.engines.backends.interface import Bound, Job
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.precision.tolerances import TOLERANCES
from pipeline.engines.records import PrecisionMetrics, TypedGraph
from pipeline.export.session import CUDA, runner
from pipeline.train.loop import train

pytestmark = pytest.mark.device

BATCH = Batch(min=1, opt=4, max=9)
TENSORRT = ["tensorrt_rtx", "tensorrt"]
PRECISIONS = list(TYPES)


@pytest.fixture(autouse=True)
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the first CUDA device, and a folder of its own; skips without a device."""
    if not cuda_devices():
        pytest.skip("no CUDA device")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} cannot use {cuda_devices()[0].name}")
    monkeypatch.chdir(tmp_path)
    return cuda_devices()[0].name


def options(**values: Any) -> Build:
    capability = cuda_devices()[0].compute_capability
    return Build(backends=[], compute_capabilities=[capability], batch=BATCH, **values)


def available(backend: str, wanted: Build) -> None:
    """Skip, with the reason, where a backend cannot build and run here."""
    try:
        BACKENDS[backend].check()
        BACKENDS[backend].runnable(wanted)
    except BackendUnavailable as e:
        pytest.skip(str(e))


def built(backend: str, precision: str, wanted: Build | None = None) -> Job:
    wanted = wanted or options()
    available(backend, wanted)
    source = write_typed(Path(f"{precision}.onnx").resolve(), precision)
    job = Job(source, Path("engine").resolve(), precision, wanted)
    build_engine(backend, job)
    return job


def opened(backend: str, precision: str, images: Images) -> Bound:
    return BACKENDS[backend].load(built(backend, precision).target, 1)(images)


def float32_logits(images: Images) -> np.ndarray:
    return runner(write_typed(Path("reference.onnx").resolve(), "fp32"))(images)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", TENSORRT)
def test_engine_equals_float32(backend: str, precision: str) -> None:
    """Engine within its precision's tolerance at every batch size; larger batches refused."""
    engine = BACKENDS[backend].load(built(backend, precision).target, 1)
    tolerance = max(TOLERANCES[precision].max_rel, BACKENDS[backend].tolerance)
    for n in (BATCH.min, BATCH.opt, BATCH.max):
        expected, found = float32_logits(some_images(n)), engine(some_images(n)).run()
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    with pytest.raises(BackendError, match=r"build\.batch"):
        engine(some_images(BATCH.max + 1))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", TENSORRT)
def test_engine_is_of_its_precision(backend: str, precision: str) -> None:
    """Inspector opens the engine: its layers and weights are of the precision on the label."""
    evidence = BACKENDS[backend].inspect(built(backend, precision))
    assert evidence.evidence_note is None, "the inspector was not reached"
    assert TYPES[precision] & set(evidence.weight_bytes)


@pytest.mark.parametrize("backend", TENSORRT)
def test_two_bounds_of_one_engine_keep_their_images(backend: str) -> None:
    """Two sets of images on one engine, run in turn, each with logits of its own."""
    engine = BACKENDS[backend].load(built(backend, "fp32").target, 1)
    first, second = (engine(some_images(4, seed)) for seed in (0, 1))
    kept = first.run()
    other = second.run()
    np.testing.assert_array_equal(first.run(), kept)
    assert not np.array_equal(kept, other)


@pytest.mark.parametrize("backend", TENSORRT)
def test_device_time_is_less_than_end_to_end(backend: str) -> None:
    """CUDA events around a CUDA graph: positive, and no more than the time of the whole call."""
    bound = opened(backend, "fp32", some_images(BATCH.max))
    assert bound.device_ms is not None
    assert bound.device_how == "CUDA graph"
    times = [bound.device_ms() for _ in range(20)]
    assert min(times) > 0
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        bound.run()
    end.record()
    end.synchronize()
    assert np.median(times) < start.elapsed_time(end) / 20


@pytest.mark.parametrize("backend", TENSORRT)
def test_a_graph_replay_computes_the_logits(backend: str) -> None:
    """Replaying the CUDA graph leaves the same logits as a plain run."""
    bound = opened(backend, "fp32", some_images(4))
    before = bound.run()
    assert bound.device_ms is not None
    bound.device_ms()
    np.testing.assert_array_equal(bound.run(), before)


@pytest.mark.parametrize("backend", TENSORRT)
def test_layer_times_lead_back_to_the_graph(backend: str) -> None:
    """IProfiler reports every layer, and its nodes are nodes of the ONNX graph."""
    job = built(backend, "fp32")
    bound = BACKENDS[backend].load(job.target, 1)(some_images(4))
    assert bound.layer_times is not None
    layers = bound.layer_times()
    assert sum(layer.ms for layer in layers) > 0
    known = {node.name for node in onnx.load(job.source).graph.node}
    assert known & {node for layer in layers for node in layer.nodes}


def test_timing_cache_is_kept_and_used() -> None:
    """TensorRT's timing cache is written, and the next build starts from it."""
    job = built("tensorrt", "fp32")
    [kept] = [path for path in Path(".cache/timings").iterdir() if path.suffix != ".lock"]
    first = kept.read_bytes()
    BACKENDS["tensorrt"].build(job)
    assert len(kept.read_bytes()) >= len(first) > 0


@pytest.mark.parametrize(
    ("option", "value"), [("version_compatible", True), ("hardware_compatibility", "ampere_plus")]
)
def test_compatible_engines_run(option: str, value: object) -> None:
    """Version- and hardware-compatible plans of TensorRT build, open and compute the same."""
    job = built("tensorrt", "fp32", options(**{option: value}))
    found = BACKENDS["tensorrt"].load(job.target, 1)(some_images(4)).run()
    np.testing.assert_allclose(found, float32_logits(some_images(4)), rtol=1e-2, atol=1e-2)


def test_rtx_keeps_compiled_kernels() -> None:
    """TensorRT-RTX leaves compiled kernels in .cache/kernels and opens with them again."""
    job = built("tensorrt_rtx", "fp32")
    first = BACKENDS["tensorrt_rtx"].load(job.target, 1)(some_images(4)).run()
    assert [path for path in Path(".cache/kernels").iterdir() if path.suffix != ".lock"]
    again = BACKENDS["tensorrt_rtx"].load(job.target, 1)(some_images(4)).run()
    np.testing.assert_array_equal(first, again)


def test_engines_are_rebuilt_for_this_device(device: str) -> None:
    """The build step, on the device itself, makes TensorRT engines of every precision."""
    available("tensorrt", options())
    Path("graphs").mkdir()
    Path("engines").mkdir()
    files = {p: write_typed(Path(f"graphs/{p}.onnx"), p).name for p in PRECISIONS}
    graphs = [TypedGraph(0, p, None, file, 0, {}, {}, [], None, 0) for p, file in files.items()]
    wanted = options().model_copy(update={"backends": ["tensorrt"]})
    typed = PrecisionMetrics("dense", {}, graphs, [])
    metrics = build(typed, Path("graphs"), Path("engines"), wanted)
    assert metrics.missing == [], device
    assert [engine.precision for engine in metrics.engines] == PRECISIONS


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_runs_on_cuda(precision: str) -> None:
    """ONNX Runtime's CUDA provider takes the graph, in its precision."""
    import onnxruntime as package

    if CUDA not in package.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider; pip install onnxruntime-gpu instead")
    job = built("onnxruntime", precision)
    assert set(BACKENDS["onnxruntime"].inspect(job).weight_bytes) == TYPES[precision]
    found = BACKENDS["onnxruntime"].load(job.target, 1)(some_images(4)).run()
    expected = float32_logits(some_images(4))
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCES[precision].max_rel


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_learns_on_cuda(precision: str, prepared: Path) -> None:
    """Training with the penalty under autocast on the device; fp16 with a gradient scaler."""
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    blocks = [unit for unit in block_units(model, torch.zeros(2, 1, 32, 32)) if unit.removable]
    params = Train.model_validate(
        {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "precision": precision}
        | {"penalty": {"lambda": 1.0, "projections": 8}}
    )
    history = train(
        model,
        load(prepared),
        params,
        blocks,
        device=torch.device("cuda"),
        checkpoint=Path("checkpoint.pt").resolve(),
        log=lambda _: None,
    )
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["val_accuracy_pct"] > 30


def test_two_devices_share_a_batch() -> None:
    """DDP over NCCL on two devices: distance and gradients are those of the global batch."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, there is {torch.cuda.device_count()}")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = [str(ROOT / "tests" / "core" / "ddp_worker.py"), str(Path.cwd()), "nccl"]
    environment = os.environ | {"PYTHONPATH": IMPORTS}
    subprocess.run([*launch, *worker], check=True, timeout=300, env=environment)
    from ddp_worker import run

    whole = run("random", slice(0, 12), torch.device("cuda"))
    for rank in (0, 1):
        computed = torch.load(f"{rank}.pt", weights_only=True, map_location="cuda")["random"]
        for key, expected in whole.items():
            torch.testing.assert_close(computed[key], expected.cuda(), rtol=1e-4, atol=1e-4)


def test_clocks_and_power_are_read() -> None:
    """NVML tells clocks, temperature and power of the device."""
    if find_spec("pipeline.benchmark.conditions") is None or find_spec("pynvml") is None:
        pytest.skip("pynvml is not installed; pip install '.[nvml]'")
    [gpu, *_] = import_module("pipeline.benchmark.conditions").gpus()
    assert gpu["sm_mhz"] > 0
    assert gpu["temperature_c"] > 0


def test_the_probe_names_device_and_driver(device: str) -> None:
    """The CUDA driver, asked without torch, and torch name the same device."""
    assert device == torch.cuda.get_device_name(0)
    assert cuda_driver()
    major, minor = torch.cuda.get_device_capability(0)
    assert cuda_devices()[0].compute_capability == f"{major}.{minor}"
