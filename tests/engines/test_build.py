import sys
from importlib.util import find_spec

import pytest
import stage_process
import yaml
from places import ROOT
from tiny_onnx import write_network
from typed_onnx import write_typed

from models.errors import ArtifactError, BackendError, BackendUnavailable, PrecisionError
from models.hashing import file_sha256
from pipeline.core.params import Batch, Build
from pipeline.core.records import read_record, write_record
from pipeline.engines.backends.build import build
from pipeline.engines.records import BuildMetrics, PrecisionMetrics, TypedGraph

HAS_RTX = find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Folders of two levels' ONNX files and of engines to be."""
    source, target = tmp_path / "precision", tmp_path / "build"
    source.mkdir()
    target.mkdir()
    for level, depth in enumerate((6, 1)):
        write_network(source / f"level_{level}.onnx", depth)
    return source, target


def graph(level, precision="fp32", backend=None, file=None):
    return TypedGraph(
        level, precision, backend, file or f"level_{level}.onnx", 0, {}, {}, [], None, 0.1
    )


def typed(*graphs):
    return PrecisionMetrics("dense", {}, list(graphs), [])


LEVELS = typed(graph(0), graph(1))


def options(*backends):
    batch = Batch(min=1, opt=2, max=4)
    return Build(backends=list(backends), compute_capabilities=["8.6"], batch=batch)


def run_stage(folder, variant="dense"):
    return stage_process.run_stage("build", variant, cwd=folder)


def project(folder, backends):
    """Lay out what the build stage reads in `folder`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["build"]["backends"] = backends
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "artifacts/precision/dense").mkdir(parents=True)
    for level, depth in enumerate((6, 1)):
        write_network(folder / f"artifacts/precision/dense/level_{level}.onnx", depth)
    write_record(folder / "metrics/precision/dense.json", LEVELS)


@needs_rtx
def test_every_level_gets_an_engine_of_every_backend_that_is_here(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    built = build(LEVELS, *folders, options("onnxruntime", "openvino", "tensorrt_rtx"))
    assert list(built.not_available) == ["openvino"]
    assert "pip install '.[openvino]'" in built.not_available["openvino"]
    here = ("onnxruntime", "tensorrt_rtx")
    by_key = {(engine.level, engine.backend): engine for engine in built.engines}
    assert list(by_key) == [(level, name) for level in (0, 1) for name in here]
    for (level, name), engine in by_key.items():
        assert engine.file.startswith(f"fp32/{name}/level_{level}.")
        assert engine.bytes == (folders[1] / engine.file).stat().st_size > 0
        assert engine.seconds > 0
        assert engine.version
        assert engine.weight_bytes.keys() == {"float32"}
        assert (engine.compute_capabilities is None) == (name == "onnxruntime")
    for name in here:
        assert by_key[1, name].bytes < by_key[0, name].bytes
    assert "8.6" in by_key[0, "tensorrt_rtx"].compute_capabilities


@needs_rtx
def test_every_precision_is_built_from_the_graph_meant_for_the_backend(folders):
    write_typed(folders[0] / "level_0-fp16.onnx", "fp16")
    write_typed(folders[0] / "level_0-int8.onnx", "int8")
    write_typed(folders[0] / "level_0-int8-cpu.onnx", "int8 for CPUs")
    graphs = typed(
        graph(0),
        graph(0, "fp16", file="level_0-fp16.onnx"),
        graph(0, "int8", file="level_0-int8.onnx"),
        graph(0, "int8", "onnxruntime", file="level_0-int8-cpu.onnx"),
    )
    built = build(graphs, *folders, options("onnxruntime", "tensorrt_rtx")).engines
    [version] = [e.version for e in built if (e.precision, e.backend) == ("int8", "onnxruntime")]
    weights = {e.precision: [*e.weight_bytes] for e in built if e.backend == "tensorrt_rtx"}
    assert weights == {"fp32": ["float32"], "fp16": ["float16"], "int8": ["int8"]}
    log = (folders[1] / "int8/onnxruntime/level_0.log").read_text()
    cpu_graph = file_sha256(folders[0] / "level_0-int8-cpu.onnx")
    assert f"onnxruntime {version}, int8" in log
    assert cpu_graph in log


def test_an_engine_that_cannot_be_built_is_listed_with_the_reason_and_the_others_are(folders):
    write_typed(folders[0] / "level_0-bf16.onnx", "bf16")
    graphs = typed(graph(0), graph(0, "bf16", file="level_0-bf16.onnx"), graph(1))
    built = build(graphs, *folders, options("onnxruntime"))
    [missing] = built.missing
    assert (missing.level, missing.precision, missing.backend) == (0, "bf16", "onnxruntime")
    assert "bfloat16" in missing.reason
    assert "\n" not in missing.reason
    assert [path.name for path in (folders[1] / "bf16/onnxruntime").iterdir()] == ["level_0.log"]
    assert [(e.level, e.precision) for e in built.engines] == [(0, "fp32"), (1, "fp32")]


def test_a_graph_that_is_not_of_its_label_stops_the_build(folders):
    graphs = typed(graph(0), graph(0, "fp16"))
    with pytest.raises(PrecisionError, match=r"level_0\.onnx is no fp16 graph.*float32 \(100 %\)"):
        build(graphs, *folders, options("onnxruntime"))
    assert not list((folders[1] / "fp16/onnxruntime").iterdir())


def test_the_same_build_again_gives_the_same_metrics_and_builds_nothing(folders, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    first = build(LEVELS, *folders, options("onnxruntime"))
    assert build(LEVELS, folders[0], again, options("onnxruntime")) == first  # seconds included
    for path in folders[1].rglob("level_*"):
        assert (again / path.relative_to(folders[1])).read_bytes() == path.read_bytes()


def test_no_backend_at_all_is_an_error(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match=r"build\.backends = \['openvino'\].*pip install"):
        build(LEVELS, *folders, options("openvino"))


def test_one_broken_level_is_listed_and_all_of_them_are_an_error(folders):
    (folders[0] / "level_1.onnx").write_bytes(b"not a network")
    [broken] = build(LEVELS, *folders, options("onnxruntime")).missing
    assert broken.level == 1
    assert "level_1.onnx" in broken.reason
    (folders[0] / "level_0.onnx").write_bytes(b"not a network")
    with pytest.raises(BackendError, match=r"onnxruntime can build no level.*level_0\.onnx"):
        build(LEVELS, *folders, options("onnxruntime"))


def test_missing_level_is_an_error(folders):
    (folders[0] / "level_1.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"level_1\.onnx is missing"):
        build(LEVELS, *folders, options("onnxruntime"))


def test_stage_replaces_the_engines_of_an_earlier_run(tmp_path):
    project(tmp_path, ["onnxruntime"])
    stale = tmp_path / "artifacts/build/dense/fp32/onnxruntime/level_7.onnx"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a plan with more levels")
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dense: level 1  fp32 onnxruntime: " in done.stdout
    files = sorted(path.name for path in stale.parent.iterdir())
    assert files == ["level_0.log", "level_0.onnx", "level_1.log", "level_1.onnx"]
    metrics = read_record(tmp_path / "metrics/build/dense.json", BuildMetrics)
    assert metrics.variant == "dense"
    assert [engine.level for engine in metrics.engines] == [0, 1]


def test_stage_fails_in_one_line_and_leaves_nothing_behind(tmp_path):
    project(tmp_path, ["onnxruntime"])
    for broken in (tmp_path / "artifacts/precision/dense").iterdir():
        broken.write_bytes(broken.read_bytes()[:200])
    done = run_stage(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "level_0.onnx" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "metrics/build").exists()
    assert list((tmp_path / "artifacts/build").iterdir()) == []


def test_stage_knows_the_variants(tmp_path):
    project(tmp_path, ["onnxruntime"])
    done = run_stage(tmp_path, "denze")
    assert done.returncode == 1
    assert "'denze'" in done.stderr
    assert "did you mean 'dense'?" in done.stderr
