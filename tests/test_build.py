import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import stage_process
import yaml
from tiny_onnx import write_network

from models.errors import ArtifactError, BackendError, BackendUnavailable
from pipeline.build import build
from pipeline.params import Batch, Build

ROOT = Path(__file__).parent.parent
HAS_RTX = find_spec("tensorrt_rtx") is not None


@pytest.fixture
def folders(tmp_path):
    """Folders of two levels' ONNX files and of engines to be."""
    source, target = tmp_path / "collapse", tmp_path / "build"
    source.mkdir()
    target.mkdir()
    for level, depth in enumerate((6, 1)):
        write_network(source / f"level_{level}.onnx", depth)
    return source, target


LEVELS = [
    {"level": 0, "removed": [], "file": "level_0.onnx"},
    {"level": 1, "removed": ["layer1.0"], "file": "level_1.onnx"},
]


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
    (folder / "artifacts/collapse/dense").mkdir(parents=True)
    for level, depth in enumerate((6, 1)):
        write_network(folder / f"artifacts/collapse/dense/level_{level}.onnx", depth)
    (folder / "metrics/collapse").mkdir(parents=True)
    (folder / "metrics/collapse/dense.json").write_text(json.dumps({"levels": LEVELS}))


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx is not installed")
def test_every_level_gets_an_engine_of_every_backend_that_is_here(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    built = build(LEVELS, *folders, options("onnxruntime", "openvino", "tensorrt_rtx"))
    assert list(built["not_available"]) == ["openvino"]
    assert "pip install '.[openvino]'" in built["not_available"]["openvino"]
    assert [level["removed"] for level in built["levels"]] == [[], ["layer1.0"]]
    for level in built["levels"]:
        assert set(level["engines"]) == {"onnxruntime", "tensorrt_rtx"}
        for name, engine in level["engines"].items():
            assert engine["file"].startswith(f"{name}/level_{level['level']}.")
            assert engine["bytes"] == (folders[1] / engine["file"]).stat().st_size > 0
            assert engine["seconds"] > 0
            assert engine["version"]
    deep, shallow = (level["engines"] for level in built["levels"])
    assert all(shallow[name]["bytes"] < deep[name]["bytes"] for name in deep)


def test_no_backend_at_all_is_an_error(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match=r"build\.backends = \['openvino'\].*pip install"):
        build(LEVELS, *folders, options("openvino"))


def test_level_that_cannot_be_built_is_an_error(folders):
    (folders[0] / "level_1.onnx").write_bytes(b"not a network")
    with pytest.raises(BackendError, match=r"level_1\.onnx"):
        build(LEVELS, *folders, options("onnxruntime"))


def test_missing_level_is_an_error(folders):
    (folders[0] / "level_1.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"level_1\.onnx is missing"):
        build(LEVELS, *folders, options("onnxruntime"))


def test_stage_replaces_the_engines_of_an_earlier_run(tmp_path):
    project(tmp_path, ["onnxruntime"])
    stale = tmp_path / "artifacts/build/dense/onnxruntime/level_7.onnx"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a plan with more levels")
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dense: level 1  onnxruntime" in done.stdout
    files = sorted(path.name for path in stale.parent.iterdir())
    assert files == ["level_0.onnx", "level_1.onnx"]
    metrics = json.loads((tmp_path / "metrics/build/dense.json").read_text())
    assert metrics["variant"] == "dense"
    assert len(metrics["levels"]) == 2


def test_stage_fails_in_one_line_and_leaves_nothing_behind(tmp_path):
    project(tmp_path, ["onnxruntime"])
    broken = tmp_path / "artifacts/collapse/dense/level_1.onnx"
    broken.write_bytes(broken.read_bytes()[:200])
    done = run_stage(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "level_1.onnx" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "metrics/build").exists()
    assert list((tmp_path / "artifacts/build").iterdir()) == []


def test_stage_knows_the_variants(tmp_path):
    project(tmp_path, ["onnxruntime"])
    done = run_stage(tmp_path, "denze")
    assert done.returncode == 1
    assert "'denze'" in done.stderr
    assert "did you mean 'dense'?" in done.stderr
