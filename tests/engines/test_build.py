import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import stage_process
import yaml
from tiny_onnx import write_network
from typed_onnx import write_typed

from models.errors import ArtifactError, BackendError, BackendUnavailable, PrecisionError
from models.hashing import file_sha256
from pipeline.build import build
from pipeline.params import Batch, Build

ROOT = Path(__file__).parent.parent
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


def level(number, removed, **graphs):
    graphs = {"fp32": {"file": f"level_{number}.onnx"}, **graphs}
    return {"level": number, "removed": removed, "graphs": graphs, "failed": {}}


LEVELS = [level(0, []), level(1, ["layer1.0"])]


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
    (folder / "metrics/precision").mkdir(parents=True)
    (folder / "metrics/precision/dense.json").write_text(json.dumps({"levels": LEVELS}))


@needs_rtx
def test_every_level_gets_an_engine_of_every_backend_that_is_here(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    built = build(LEVELS, *folders, options("onnxruntime", "openvino", "tensorrt_rtx"))
    assert list(built["not_available"]) == ["openvino"]
    assert "pip install '.[openvino]'" in built["not_available"]["openvino"]
    assert [level["removed"] for level in built["levels"]] == [[], ["layer1.0"]]
    for level in built["levels"]:
        assert set(level["engines"]["fp32"]) == {"onnxruntime", "tensorrt_rtx"}
        for name, engine in level["engines"]["fp32"].items():
            assert engine["file"].startswith(f"fp32/{name}/level_{level['level']}.")
            assert engine["bytes"] == (folders[1] / engine["file"]).stat().st_size > 0
            assert engine["seconds"] > 0
            assert engine["version"]
            assert engine["evidence"]["weight_bytes"].keys() == {"float32"}
        assert "8.6" in level["engines"]["fp32"]["tensorrt_rtx"]["compute_capabilities"]
        assert "compute_capabilities" not in level["engines"]["fp32"]["onnxruntime"]
    deep, shallow = (level["engines"]["fp32"] for level in built["levels"])
    assert all(shallow[name]["bytes"] < deep[name]["bytes"] for name in deep)


@needs_rtx
def test_every_precision_is_built_from_the_graph_meant_for_the_backend(folders):
    write_typed(folders[0] / "level_0-fp16.onnx", "fp16")
    write_typed(folders[0] / "level_0-int8.onnx", "int8")
    write_typed(folders[0] / "level_0-int8-cpu.onnx", "int8 for CPUs")
    int8 = {"file": "level_0-int8.onnx", "files": {"onnxruntime": "level_0-int8-cpu.onnx"}}
    levels = [level(0, [], fp16={"file": "level_0-fp16.onnx"}, int8=int8)]
    [built] = build(levels, *folders, options("onnxruntime", "tensorrt_rtx"))["levels"]
    assert set(built["engines"]["int8"]) == {"onnxruntime", "tensorrt_rtx"}
    assert set(built["engines"]["fp16"]) >= {"tensorrt_rtx"}
    weights = {
        precision: engines["tensorrt_rtx"]["evidence"]["weight_bytes"]
        for precision, engines in built["engines"].items()
    }
    assert [list(kinds) for kinds in weights.values()] == [["float32"], ["float16"], ["int8"]]
    log = (folders[1] / "int8/onnxruntime/level_0.log").read_text()
    cpu_graph = file_sha256(folders[0] / "level_0-int8-cpu.onnx")
    assert f"onnxruntime {built['engines']['int8']['onnxruntime']['version']}, int8" in log
    assert cpu_graph in log


def test_an_engine_that_cannot_be_built_is_listed_with_the_reason_and_the_others_are(folders):
    write_typed(folders[0] / "level_0-bf16.onnx", "bf16")
    levels = [level(0, [], bf16={"file": "level_0-bf16.onnx"}), level(1, [])]
    first, second = build(levels, *folders, options("onnxruntime"))["levels"]
    assert "bfloat16" in first["failed"]["bf16"]["onnxruntime"]
    assert "\n" not in first["failed"]["bf16"]["onnxruntime"]
    assert [path.name for path in (folders[1] / "bf16/onnxruntime").iterdir()] == ["level_0.log"]
    assert set(first["engines"]) == set(second["engines"]) == {"fp32"}


def test_a_graph_that_is_not_of_its_label_stops_the_build(folders):
    levels = [level(0, [], fp16={"file": "level_0.onnx"})]
    with pytest.raises(PrecisionError, match=r"level_0\.onnx is no fp16 graph.*float32 \(100 %\)"):
        build(levels, *folders, options("onnxruntime"))
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
    _, broken = build(LEVELS, *folders, options("onnxruntime"))["levels"]
    assert "level_1.onnx" in broken["failed"]["fp32"]["onnxruntime"]
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
    assert "dense: level 1  fp32: onnxruntime" in done.stdout
    files = sorted(path.name for path in stale.parent.iterdir())
    assert files == ["level_0.log", "level_0.onnx", "level_1.log", "level_1.onnx"]
    metrics = json.loads((tmp_path / "metrics/build/dense.json").read_text())
    assert metrics["variant"] == "dense"
    assert len(metrics["levels"]) == 2


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
