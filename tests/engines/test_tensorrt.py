"""What of TensorRT works without a device, on the API that both of its packages share."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import job, needs_rtx, options
from typed_onnx import write_typed

from models.errors import BackendError
from pipeline.core.hardware import CudaDevice
from pipeline.engines.backends.interface import LayerTime
from pipeline.engines.backends.packages import captured_stderr
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.backends.tensorrt.build import configure, kept_timings
from pipeline.engines.backends.tensorrt.layers import (
    layer_times,
    matrix_operators,
    parse_layers,
    weight_bytes,
)
from pipeline.engines.backends.tensorrt.package import Flavour

# The bindings of RTX have the calls of TensorRT too, those without effect included.
LIKE_TENSORRT = Flavour("tensorrt_rtx", "TensorRT", "", ahead_of_time=False)


@pytest.fixture
def config() -> Any:
    builder = LIKE_TENSORRT.trt.Builder(LIKE_TENSORRT.logger)
    return builder.create_builder_config()


@needs_rtx
@pytest.mark.parametrize("level", ["same_compute_capability", "ampere_plus"])
def test_compatibility_is_asked_of_the_builder(level: str, config: Any) -> None:
    trt, log = LIKE_TENSORRT.trt, LIKE_TENSORRT.logger
    log.clear()
    wanted = options(hardware_compatibility=level, version_compatible=True)
    configure(LIKE_TENSORRT, config, wanted)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    # RTX has compute capabilities instead, and says so when asked.
    assert log.warnings == ["setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX."]


@needs_rtx
def test_by_default_engines_are_for_this_version(config: Any) -> None:
    configure(LIKE_TENSORRT, config, options())
    assert not config.get_flag(LIKE_TENSORRT.trt.BuilderFlag.VERSION_COMPATIBLE)


@pytest.mark.parametrize(
    ("level", "expected"),
    [("none", ["8.7"]), ("same_compute_capability", ["8.7"]), ("ampere_plus", ["8.0+"])],
)
def test_the_gpus_of_an_engine_follow_from_the_device_and_the_option(
    level: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    orin = CudaDevice("Orin", "8.7", 8)
    monkeypatch.setattr("pipeline.engines.backends.tensorrt.package.cuda_devices", lambda: [orin])
    target = BACKENDS["tensorrt"].target(options(hardware_compatibility=level))
    assert target["compute_capabilities"] == expected
    assert target["device"] == "Orin"


@needs_rtx
def test_a_level_that_this_version_lacks_is_named(config: Any) -> None:
    unknown = options(hardware_compatibility="future_plus")
    with pytest.raises(BackendError, match=r"'future_plus' is unknown.*none.*ampere_plus"):
        configure(LIKE_TENSORRT, config, unknown)


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
@pytest.mark.parametrize("before", [None, b"damaged"])
def test_timings_are_stored_and_read_again(
    before: bytes | None, config: Any, tmp_path: Path
) -> None:
    kept = tmp_path / "gpu.timings"
    if before:
        kept.write_bytes(before)
    for _ in range(2):
        with kept_timings(config, kept):
            assert config.get_timing_cache() is not None
        stored = kept.read_bytes()
        assert config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)


@needs_rtx
def test_a_failing_builder_says_why_in_the_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    source = write_typed(tmp_path / "network.onnx", "bf16")
    old = job(source, tmp_path / "engine", "bf16", compute_capabilities=["7.5"])
    with pytest.raises(BackendError, match=r"cannot build .*network\.onnx: \w+"):
        BACKENDS["tensorrt_rtx"].build(old)
    assert capfd.readouterr() == ("", "")


def test_what_a_library_prints_on_standard_error_is_caught(capfd: pytest.CaptureFixture) -> None:
    """And standard error is there again, after a failure too."""
    with pytest.raises(ValueError, match="x"), captured_stderr() as lines:
        os.write(2, b"past Python\n\n")
        raise ValueError("x")
    os.write(2, b"after")
    assert lines == ["past Python"]
    assert capfd.readouterr().err == "after"


# What the modules that need a device call, by class: it must exist in the installed bindings.
CALLED = {
    "Runtime": ["engine_host_code_allowed", "deserialize_cuda_engine"],
    "ICudaEngine": [
        *("create_execution_context", "create_engine_inspector", "create_runtime_config"),
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
    ],
    "IExecutionContext": [
        *("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
        "profiler",
    ],
    "EngineInspector": ["get_engine_information", "execution_context"],
    "IProfiler": ["report_layer_time"],
    "IRuntimeConfig": [
        *("create_runtime_cache", "set_runtime_cache"),
        "dynamic_shapes_kernel_specialization_strategy",
    ],
    "IRuntimeCache": ["serialize", "deserialize"],
    "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
    "IBuilderConfig": ["create_timing_cache", "set_timing_cache", "get_timing_cache"],
    "ITimingCache": ["combine", "serialize"],
}


@needs_rtx
@pytest.mark.parametrize("name", CALLED)
def test_calls_that_only_a_device_can_run_exist(name: str) -> None:
    defined = getattr(LIKE_TENSORRT.trt, name)
    assert [call for call in CALLED[name] if not hasattr(defined, call)] == []


# As the inspector of TensorRT 10 describes an fp16 network; \u001e and \u001f join nodes.
INSPECTED = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 9408},
            "Bias": {"Type": "Half", "Count": 64},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
            "Metadata": "[ONNX Layer: node_Conv_289]\u001f[ONNX Layer: node_relu]",
        },
        {
            "Name": "fc",
            "LayerType": "gemm",
            "Inputs": [{"Name": "features", "Format": "Linear", "Datatype": "Float"}],
            "Weights": {"Type": "Float", "Count": 640},
            "TacticName": "sm80_xmma_gemm_f32f32_tf32f32_f32",
            "Metadata": "[ONNX Layer: node_linear]",
        },
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
            "ParameterType": "Reformat",
            "TacticName": "",
            "Metadata": "",
        },
    ],
    "Bindings": ["images", "logits"],
}


def test_the_inspector_reports_weights_operators_and_nodes() -> None:
    layers = parse_layers(json.dumps(INSPECTED))
    assert weight_bytes(layers) == {"float16": 2 * 9408, "float32": 4 * 640}
    assert matrix_operators(layers) == {"float16": 1, "float32": 1}
    assert layer_times(layers, [("conv1 + relu1", 0.25), ("fc", 0.125), ("copy", 0.5)]) == [
        LayerTime("conv1 + relu1", 0.25, ("node_Conv_289", "node_relu")),
        LayerTime("fc", 0.125, ("node_linear",)),
        LayerTime("copy", 0.5, ()),
    ]


def test_an_engine_without_details_has_names_alone() -> None:
    layers = parse_layers(json.dumps({"Layers": ["conv1 + relu1", "fc"], "Bindings": []}))
    assert layer_times(layers, [("fc", 0.25)]) == [LayerTime("fc", 0.25, ())]
    assert (weight_bytes(layers), matrix_operators(layers)) == ({}, {})


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        ("Half", "float16"),
        ("Channel major FP16 format where C % 8 == 0", "float16"),
        ("BFloat16", "bfloat16"),
        ("Row major linear BF16", "bfloat16"),
        ("Float", "float32"),
        ("Row major linear FP32", "float32"),
        ("Int8", "int8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Int32", None),
    ],
)
def test_data_types_are_read_in_every_spelling(spelled: str, kind: str | None) -> None:
    described = {"Name": "conv", "LayerType": "conv", "Inputs": [{"Format/Datatype": spelled}]}
    layers = parse_layers(json.dumps({"Layers": [described]}))
    assert matrix_operators(layers) == ({kind: 1} if kind else {})
