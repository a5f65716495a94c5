"""The pipeline's description against the code: dependencies, contracts, names, messages."""

import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml
from importlinter import cli
from stage_process import run_stage

from pipeline.params import Params

ROOT = Path(__file__).parent.parent
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# Watching a training cannot change its result, so an edit to tracking does not train again.
OBSERVER = "pipeline.tracking"


def description(stage: str) -> dict:
    return PIPELINE[stage].get("do", PIPELINE[stage])


def import_closure(stage: str, graph: grimp.ImportGraph) -> set[str]:
    """Return the files of Shoal that a stage imports, directly or not."""
    seen: set[str] = set()
    waiting = {f"stages.{stage}"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= graph.find_modules_directly_imported_by(module) - seen
        if stage != "track":
            waiting.discard(OBSERVER)
    files = set()
    for module in seen:
        path = Path(*module.split("."))
        is_package = (ROOT / path).is_dir()
        files.add(path / "__init__.py" if is_package else path.with_suffix(".py"))
        files |= {parent / "__init__.py" for parent in path.parents if parent != Path()}
    return {str(file) for file in files}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("stages", "pipeline", "models", cache_dir=None)


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_exactly_the_modules_it_imports(stage: str, graph: grimp.ImportGraph) -> None:
    listed = {dep for dep in description(stage)["deps"] if dep.endswith(".py")}
    assert listed == import_closure(stage, graph)


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_runs_the_module_of_its_name(stage: str) -> None:
    assert description(stage)["cmd"].startswith(f"python -m stages.{stage}")


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_tracks_parameters_that_exist(stage: str) -> None:
    known = {*Params.model_fields, "variants.${key}"}
    assert set(description(stage).get("params", [])) <= known


def test_the_import_contracts_hold() -> None:
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def assert_one_clear_message(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def project(tmp_path: Path, old: str = "", new: str = "") -> Path:
    """Write the shipped params.yaml, edited, into a folder."""
    text = (ROOT / "tests" / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", "unknown key train.epoch; did you mean 'epochs'?"),
        ("epochs: 8", "epochs: three", "train.epochs = 'three'"),
        ("lambda: 3.0", "lambda: -5.0", "lambda = -5.0: Input should be greater than or equal"),
    ],
)
def test_a_wrong_parameter_stops_any_stage(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert_one_clear_message(run_stage("prepare", cwd=project(tmp_path, old, new)), message)


def test_an_unknown_model_stops_training_with_near_matches(tmp_path: Path, prepared: Path) -> None:
    project(tmp_path, "name: resnet18_cifar", "name: resnet81_cifar")
    shutil.copytree(prepared, tmp_path / "artifacts" / "prepare")
    (tmp_path / "metrics").mkdir()
    shutil.copy(prepared / "manifest.json", tmp_path / "metrics" / "prepare.json")
    result = run_stage("train", "dense", cwd=tmp_path)
    assert_one_clear_message(result, "no model 'resnet81_cifar'; did you mean 'resnet18_cifar'")


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    result = run_stage("train", "lacot", cwd=project(tmp_path))
    assert_one_clear_message(result, "no variant 'lacot' in params.yaml; did you mean 'lacoot'")


@pytest.mark.parametrize("stage", ["train", "score", "plan", "export", "collapse"])
def test_a_missing_input_is_named_with_the_command_that_makes_it(
    tmp_path: Path, stage: str
) -> None:
    result = run_stage(stage, "dense", cwd=project(tmp_path))
    assert_one_clear_message(result, "`dvc repro` makes it")


def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    code = (
        "import errno, stages\n"
        "def main(): raise OSError(errno.ENOSPC, 'No space left on device', 'big.npy')\n"
        "stages.run_stage(main)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert_one_clear_message(result, "the disk is full (writing big.npy)")
