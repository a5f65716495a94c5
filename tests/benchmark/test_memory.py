"""Memory of real engines: weights are seen, activations grow, errors are reported."""

import subprocess
from pathlib import Path

import pytest
from tiny_onnx import write_network

from pipeline.benchmark.memory import memory_of_engines
from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.core.hardware import cuda_devices

MB = 1e6
SHAPE = (1, 12, 12)


def proven(path, level=0):
    return ProvenEngine("dense", level, "fp32", "onnxruntime", (), 90.0, 89.5, path, path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """An engine of 38 MB of weights, and one of wide activations at several batch sizes."""
    folder = tmp_path_factory.mktemp("engines")
    heavy, wide = proven(folder / "heavy.onnx"), proven(folder / "wide.onnx", level=1)
    write_network(heavy.engine, depth=2, width=1024)
    write_network(wide.engine, depth=2, width=64)
    found, missing = memory_of_engines([heavy], SHAPE, [1], threads=1)
    more, also_missing = memory_of_engines([wide], SHAPE, [1, 16, 256], threads=1)
    assert missing == also_missing == {}
    return [*found, *more]


def on_host(measured, level):
    return {one.batch: one for one in measured if (one.level, one.place) == (level, "host")}


def test_weights_are_what_an_engine_holds_after_loading(measured):
    heavy, wide = (on_host(measured, level)[1].loaded_bytes for level in (0, 1))
    assert 37 * MB <= heavy <= 120 * MB  # it may keep a packed copy
    assert 0 < wide <= 20 * MB


def test_activations_grow_with_the_batch(measured):
    wide = on_host(measured, 1)
    one_layer = 256 * 64 * 12 * 12 * 4
    assert wide[1].activations_bytes < wide[16].activations_bytes < wide[256].activations_bytes
    assert one_layer <= wide[256].activations_bytes <= 8 * one_layer


def test_the_peak_is_at_least_what_is_kept(measured):
    for level in (0, 1):
        for one in on_host(measured, level).values():
            assert one.peak_bytes >= 0.95 * (one.loaded_bytes + one.activations_bytes)


def test_without_a_device_there_is_no_device_memory(measured):
    if cuda_devices():
        pytest.skip("there is a CUDA device")
    assert {one.place for one in measured} == {"host"}


def test_an_engine_that_cannot_be_opened_does_not_cost_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no engine")
    write_network(tmp_path / "whole.onnx")
    engines = [proven(Path(f"{name}.onnx"), n) for n, name in enumerate(("broken", "whole"))]
    found, missing = memory_of_engines(engines, SHAPE, [1], threads=1)
    assert {one.level for one in found} == {1}
    assert missing["onnxruntime"].startswith("ONNX Runtime cannot open")
    assert "broken.onnx" in missing["onnxruntime"]


@pytest.mark.parametrize(
    ("stderr", "reason"), [("", "its process ended with -14"), ("W\nOSError: x\n", "OSError: x")]
)
def test_a_process_that_ends_early_is_reported(tmp_path, monkeypatch, stderr, reason):
    ended = subprocess.CompletedProcess([], -14, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ended)
    found = memory_of_engines([proven(tmp_path / "hangs.onnx")], SHAPE, [1], threads=1)
    assert found == ([], {"onnxruntime": reason})
