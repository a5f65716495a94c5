"""Engines are what their label says, on every backend that builds here, or they are rejected."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_jobs import OPTIONS, needs_rtx
from onnx import numpy_helper
from typed_onnx import WRITERS, write_typed

from models.errors import ArtifactError, BackendError, BackendUnavailable, PrecisionError
from pipeline.engines.backends.build import build_engine
from pipeline.engines.backends.inspection import TYPES, require_graph, require_precision
from pipeline.engines.backends.interface import Job, PrecisionEvidence
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.backends.weights import find_weights, weight_bytes, weights

HERE = [name for name in ("onnxruntime", "openvino", "tensorrt_rtx") if find_spec(name)]
OTHER = {"fp32": "int8", "fp16": "fp32", "bf16": "fp32", "int8": "fp32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    return {kind: write_typed(folder / f"{kind.split()[-1]}.onnx", kind) for kind in WRITERS}


def job(source: Path, precision: str, name: str = "engine") -> Job:
    return Job(source, Path(name), precision, OPTIONS)


def engine_of(backend: str, source: Path) -> Path:
    BACKENDS[backend].build(job(source, "unchecked", "unchecked"))
    return Path("unchecked")


@pytest.mark.parametrize("precision", TYPES)
@needs_rtx
def test_a_tensorrt_engine_holds_the_weights_of_its_graph(
    precision: str, graphs: dict[str, Path]
) -> None:
    facts = build_engine("tensorrt_rtx", job(graphs[precision], precision)).facts
    held = facts["weight_bytes"]
    [kind] = TYPES[precision] & set(held)
    assert 0.9 * weight_bytes(graphs[precision])[kind] < held[kind]
    assert "no CUDA device" in (facts["evidence_note"] or "no CUDA device")


@pytest.mark.parametrize(
    ("backend", "kind"), [("onnxruntime", "int8 for CPUs"), ("openvino", "int8 for CPUs")]
)
def test_int8_engines_of_the_cpu_compute_in_int8(
    backend: str, kind: str, graphs: dict[str, Path]
) -> None:
    if backend not in HERE:
        pytest.skip(f"{backend} is not installed")
    facts = build_engine(backend, job(graphs[kind], "int8")).facts
    assert set(facts["operators"]) <= TYPES["int8"]
    assert sum(facts["operators"].values()) == 4
    assert 100 * facts["weight_bytes"].get("float32", 0) < facts["weight_bytes"]["int8"]


def error_of(backend: str, wanted: Job) -> BackendError | None:
    try:
        build_engine(backend, wanted)
    except BackendError as e:
        return e
    return None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("backend", [name for name in HERE if name != "tensorrt_rtx"])
def test_a_cpu_that_has_no_half_precision_gives_no_engine_that_says_so(
    backend: str, precision: str, graphs: dict[str, Path]
) -> None:
    reason = error_of(backend, job(graphs[precision], precision))
    if reason is None:
        held = BACKENDS[backend].inspect(job(graphs[precision], precision)).weight_bytes
        assert set(held) == TYPES[precision]
    else:
        assert re.search(r"float32 \(100 %\) on this machine|'tensor\(bfloat16\)'", str(reason))
        assert not isinstance(reason, PrecisionError)
        assert not Path("engine").exists()


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("backend", HERE)
def test_a_graph_of_another_precision_is_rejected(
    backend: str, precision: str, graphs: dict[str, Path]
) -> None:
    other = graphs[OTHER[precision]]
    with pytest.raises(PrecisionError, match=rf"is no {precision} graph: its weights are \w+"):
        build_engine(backend, job(other, precision))
    assert not Path("engine").exists()


def in_float32(typed: Path, plain: Path) -> Path:
    """Write the float32 graph with the weights of a typed graph, dequantised."""
    meant = {w.name.removesuffix("_quantized"): w.as_float() for w in weights(typed)}
    model = onnx.load(plain)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(meant[tensor.name], tensor.name))
    path = Path("in_float32.onnx").resolve()
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("backend", HERE)
def test_an_engine_that_holds_its_weights_in_float32_is_rejected(
    backend: str, precision: str, graphs: dict[str, Path]
) -> None:
    """The graph is right, the engine that came out is not."""
    engine = engine_of(backend, in_float32(graphs[precision], graphs["fp32"]))
    wrong = Job(graphs[precision], engine, precision, OPTIONS)
    evidence = BACKENDS[backend].inspect(wrong)
    assert evidence.weights_not_found == 0
    with pytest.raises(PrecisionError, match=rf"{precision} engine .* float32 \(100 %\)"):
        require_precision(backend, True, wrong, evidence)
    with pytest.raises(BackendUnavailable, match="on this machine"):
        require_precision(backend, False, wrong, evidence)


@needs_rtx
def test_an_engine_with_other_weights_is_rejected(graphs: dict[str, Path]) -> None:
    other = write_typed(Path("other.onnx").resolve(), "fp32", depth=4)
    wrong = Job(graphs["fp16"], engine_of("tensorrt_rtx", other), "fp16", OPTIONS)
    evidence = BACKENDS["tensorrt_rtx"].inspect(wrong)
    with pytest.raises(BackendError, match="cannot be shown to be fp16"):
        require_precision("tensorrt_rtx", True, wrong, evidence)


def seen(**numbers: int) -> PrecisionEvidence:
    return PrecisionEvidence("a test", numbers, {})


def test_more_than_half_of_the_weights_decide(graphs: dict[str, Path]) -> None:
    fp16 = job(graphs["fp16"], "fp16")
    require_precision("x", True, fp16, seen(float16=2 * 51, float32=4 * 49))
    with pytest.raises(PrecisionError, match=r"float32 \(51 %\) and float16 \(49 %\)"):
        require_precision("x", True, fp16, seen(float16=2 * 49, float32=4 * 51))


def test_more_than_half_of_the_operators_decide(graphs: dict[str, Path]) -> None:
    int8 = job(graphs["int8"], "int8")
    weights = {"int8": 100}
    require_precision(
        "x", True, int8, PrecisionEvidence("a test", weights, {"int8": 2, "float32": 1})
    )
    with pytest.raises(BackendUnavailable, match=r"products in float32 \(67 %\)"):
        require_precision(
            "x", False, int8, PrecisionEvidence("a test", weights, {"int8": 1, "float32": 2})
        )


@pytest.mark.parametrize(("size", "proven"), [(399, True), (400, False)])
def test_weights_that_were_not_found_must_at_least_not_fit_in_float32(
    size: int, proven: bool, graphs: dict[str, Path]
) -> None:
    Path("engine").write_bytes(bytes(size))
    hidden = PrecisionEvidence("a test", {}, {}, weights_not_found=100)
    if proven:
        require_precision("x", True, job(graphs["fp16"], "fp16"), hidden)
    else:
        with pytest.raises(BackendError, match="cannot be shown to be fp16: 100 of its") as raised:
            require_precision("x", True, job(graphs["fp16"], "fp16"), hidden)
        assert not isinstance(raised.value, PrecisionError), "no proof of a defect either"


def test_weights_are_found_in_every_layout_and_zeros_nowhere(tmp_path: Path) -> None:
    source = write_typed(tmp_path / "network.onnx", "fp32")
    tensors = {w.name: w.values for w in weights(source)}
    channels_last = b"".join(
        np.ascontiguousarray(v.transpose(0, 2, 3, 1) if v.ndim == 4 else v.T).tobytes()
        for v in tensors.values()
    )
    assert find_weights(b"head" + channels_last, source) == (weight_bytes(source), 0)
    assert find_weights(bytes(10**6), source) == ({}, sum(v.size for v in tensors.values()))


@pytest.mark.parametrize("content", [None, b"no network"])
def test_a_missing_or_damaged_graph_is_named(content: bytes | None, tmp_path: Path) -> None:
    source = tmp_path / "graph.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises((ArtifactError, BackendError), match=r"graph\.onnx"):
        require_graph(job(source, "fp32"))


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_rtx_engines_grow_by_the_bytes_of_the_precision(precision: str, tmp_path: Path) -> None:
    """By three more convolutions of 128 channels: their weights, with int8 also kernels."""

    def engine_bytes(depth: int, kind: str) -> int:
        source = write_typed(tmp_path / "graph.onnx", kind, depth, width=128)
        BACKENDS["tensorrt_rtx"].build(job(source, kind))
        return Path("engine").stat().st_size

    typed, whole = (engine_bytes(6, kind) - engine_bytes(3, kind) for kind in (precision, "fp32"))
    assert whole == pytest.approx(3 * 128 * 128 * 9 * 4, rel=0.02)
    share = 0.25 if precision == "int8" else 0.5
    assert share - 0.02 < typed / whole < share + (0.5 if precision == "int8" else 0.02)
