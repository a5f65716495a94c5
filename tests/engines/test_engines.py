import sys
from typing import get_args

import numpy as np
import onnx
import pytest
from engine_jobs import BATCH, OPTIONS, job, needs
from onnx.reference import ReferenceEvaluator
from tiny_onnx import SIZE, some_images, write_network
from typed_onnx import write_typed

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.core.hardware import cuda_devices
from pipeline.core.params import Build
from pipeline.engines.backends.registry import BACKENDS
from pipeline.export.session import runner

ON_CPU = ["onnxruntime", pytest.param("openvino", marks=needs("openvino"))]
AHEAD_OF_TIME = [*ON_CPU, pytest.param("tensorrt_rtx", marks=needs("tensorrt_rtx"))]


def build(name, tmp_path, depth=2):
    """Return the engine file of a network, and the same network in torch."""
    backend = BACKENDS[name]
    source, target = tmp_path / f"{depth}.onnx", tmp_path / f"{depth}-engine.{backend.suffix}"
    reference = write_network(source, depth)
    backend.build(job(source, target))
    return target, reference


def test_every_backend_that_params_allow_has_a_row():
    [allowed] = get_args(Build.model_fields["backends"].annotation)
    assert set(BACKENDS) == set(get_args(allowed))


@pytest.mark.parametrize("name", ON_CPU)
def test_engine_equals_torch_at_every_batch_size(name, tmp_path):
    path, reference = build(name, tmp_path)
    engine = BACKENDS[name].load(path, 2)
    for n in (1, 2, BATCH.max):
        np.testing.assert_allclose(
            engine(some_images(n)).run(), reference(some_images(n)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ON_CPU)
def test_logits_stay_as_they_were_when_the_engine_runs_again(name, tmp_path):
    path, _ = build(name, tmp_path)
    engine = BACKENDS[name].load(path, 1)
    images = some_images(3)
    run = engine(images).run
    first = run()
    kept = first.copy()
    images[:] = 1
    run()
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", AHEAD_OF_TIME)
def test_fewer_layers_make_a_smaller_engine(name, tmp_path):
    (deep, _), (shallow, _) = build(name, tmp_path, depth=8), build(name, tmp_path, depth=1)
    assert 0 < shallow.stat().st_size < deep.stat().st_size


def test_onnxruntime_optimises_ahead_of_time_and_says_nothing(tmp_path, capfd):
    BACKENDS["onnxruntime"].check()
    capfd.readouterr()  # what the import may say of the machine
    path, _ = build("onnxruntime", tmp_path)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "Relu" not in operators, "ReLU was not fused into the convolutions"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_runner_equals_torch_on_plain_onnx(as_bytes, tmp_path):
    source = tmp_path / "network.onnx"
    reference = write_network(source)
    run = runner(source.read_bytes() if as_bytes else source)
    for n in (1, 6):
        np.testing.assert_allclose(
            run(some_images(n)), reference(some_images(n)), rtol=1e-4, atol=1e-6
        )


def test_without_integer_kernels_q_and_dq_are_as_the_standard_defines_them(tmp_path):
    path = write_typed(tmp_path / "int8.onnx", "int8")
    images = np.random.default_rng(0).normal(size=(5, 1, SIZE, SIZE)).astype(np.float32)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, {"images": images})
    found = runner(path, integer_kernels=False)(images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_runner_takes_images_in_any_memory_order(tmp_path):
    reference = write_network(tmp_path / "network.onnx")
    images = np.asfortranarray(some_images(4))
    np.testing.assert_allclose(
        runner(tmp_path / "network.onnx")(images), reference(images.copy(order="C")), rtol=1e-4
    )


@pytest.mark.parametrize("name", ON_CPU)
def test_images_of_the_wrong_shape_are_rejected(name, tmp_path):
    path, _ = build(name, tmp_path)
    with pytest.raises(BackendError, match=r"2, 3, 12, 12"):
        BACKENDS[name].load(path, 1)(np.zeros((2, 3, 12, 12), np.float32)).run()


@pytest.mark.parametrize("name", AHEAD_OF_TIME)
def test_truncated_onnx_is_named(name, tmp_path):
    write_network(tmp_path / "whole.onnx", depth=4, width=32)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((tmp_path / "whole.onnx").read_bytes()[:50_000])
    with pytest.raises(BackendError, match=r"broken\.onnx"):
        BACKENDS[name].build(job(broken, tmp_path / "engine"))
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("name", AHEAD_OF_TIME)
def test_missing_onnx_is_named(name, tmp_path):
    with pytest.raises(ArtifactError, match=r"absent\.onnx is missing"):
        BACKENDS[name].build(job(tmp_path / "absent.onnx", tmp_path / "engine"))


@pytest.mark.parametrize("name", ON_CPU)
def test_damaged_or_missing_engine_is_named(name, tmp_path):
    path, _ = build(name, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackendError, match=path.name):
        BACKENDS[name].load(path, 1)
    path.unlink()
    with pytest.raises(ArtifactError, match=path.name):
        BACKENDS[name].load(path, 1)


@pytest.mark.parametrize("name", BACKENDS)
def test_missing_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # makes `import` fail as without the package
    with pytest.raises(BackendUnavailable, match=rf"{name} .*pip install"):
        BACKENDS[name].check()


@needs("tensorrt_rtx")
def test_rtx_names_the_compute_capabilities_it_knows(tmp_path):
    write_network(tmp_path / "network.onnx")
    with pytest.raises(BackendError, match=r"'9\.9'.*8\.0, 8\.6, 8\.9, 12\.0"):
        unknown = {"compute_capabilities": ["8.6", "9.9"]}
        BACKENDS["tensorrt_rtx"].build(
            job(tmp_path / "network.onnx", tmp_path / "engine", **unknown)
        )


@needs("tensorrt_rtx")
@pytest.mark.skipif(bool(cuda_devices()), reason="has a CUDA device")
def test_rtx_without_a_device_cannot_run_and_says_so(tmp_path):
    path, _ = build("tensorrt_rtx", tmp_path)
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        BACKENDS["tensorrt_rtx"].runnable(OPTIONS)
    with pytest.raises(BackendError, match=rf"{path.name}.*(?i:cuda)"):
        BACKENDS["tensorrt_rtx"].load(path, 1)
