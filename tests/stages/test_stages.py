"""The pipeline's description against the code: dependencies, contracts, names, messages."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml
from importlinter import cli
from places import FIXED, ROOT
from stage_process import run_stage

from pipeline.core.params import Params

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# What watches a training cannot change its result, so an edit to it does not train again.
OBSERVER = "pipeline.report.tracking.live"

# Packages that hand on a fixed public name (docs/architecture.md); every other runs nothing.
HANDS_ON = {
    "pipeline/benchmark/__init__.py": "lazily",
    "pipeline/collapse/__init__.py": "lazily",
    "pipeline/core/params/__init__.py": "when imported",
    "pipeline/distances/__init__.py": "when imported",
    "pipeline/export/__init__.py": "lazily",
    "stages/__init__.py": "lazily",  # hands on nothing, but signals while a script is imported
}

# Edits in these chapters never train again.
FREE = ("report", "cli", "engines", "export", "collapse", "benchmark", "bundle", "data/published")


def description(stage: str) -> dict:
    return PIPELINE[stage].get("do", PIPELINE[stage])


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))


def runs_nothing(file: str) -> bool:
    """Say whether a module is a docstring alone."""
    return len(ast.parse((ROOT / file).read_text(encoding="utf-8")).body) <= 1


def import_closure(stage: str, graph: grimp.ImportGraph) -> set[str]:
    """Return the files of Shoal whose code a stage may run: imported directly or not."""
    seen: set[str] = set()
    waiting = {f"stages.{stage}"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        parents = {module.rpartition(".")[0]} - {""}
        if HANDS_ON.get(file_of(module)) != "lazily":
            waiting |= graph.find_modules_directly_imported_by(module) - seen
        waiting |= parents - seen
        if stage not in {"report", "track"}:
            waiting.discard(OBSERVER)
    return {
        file
        for file in map(file_of, seen)
        if HANDS_ON.get(file) != "lazily" and not runs_nothing(file)
    }


def listed_code(stage: str) -> set[str]:
    """Return the folders and modules of Shoal that a stage lists as dependencies."""
    return {
        dep
        for dep in description(stage).get("deps", [])
        if dep.partition("/")[0] in {"models", "pipeline", "stages"}
    }


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("stages", "pipeline", "models", cache_dir=None)


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_lists_the_code_it_imports_and_nothing_in_vain(
    stage: str, graph: grimp.ImportGraph
) -> None:
    imported, listed = import_closure(stage, graph), listed_code(stage)
    if description(stage).get("always_changed"):
        assert listed == set()
        return
    covered = {dep: {f for f in imported if Path(f).is_relative_to(dep)} for dep in listed}
    assert imported == set().union(*covered.values())
    assert [dep for dep, files in covered.items() if not files] == []


@pytest.mark.parametrize("stage", [name for name in PIPELINE if "do" in PIPELINE[name]])
def test_params_are_validated_before_any_command_holds_the_name_of_a_variant(stage: str) -> None:
    """DVC itself takes any name; what always runs refuses it before (test_sources.py shows it)."""
    makers = {path: name for name in PIPELINE for path in outs(name)}
    waiting, before = [stage], set()
    while waiting:
        for dep in description(waiting.pop()).get("deps", []):
            found = {makers[str(p)] for p in (Path(dep), *Path(dep).parents) if str(p) in makers}
            waiting += found - before
            before |= found
    assert before & {"sources", "probe"}


def outs(stage: str) -> list[str]:
    described = description(stage)
    found = [*described.get("outs", []), *described.get("metrics", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in found]


@pytest.mark.parametrize("chapter", FREE)
def test_an_edit_in_a_chapter_beside_training_never_trains_again(chapter: str) -> None:
    listed = listed_code("train")
    assert not [dep for dep in listed if Path("pipeline", chapter).is_relative_to(dep)]
    assert not [dep for dep in listed if Path(dep).is_relative_to(Path("pipeline", chapter))]


def test_packages_run_nothing_but_for_those_that_hand_on_a_public_name() -> None:
    packages = [
        str(file.relative_to(ROOT))
        for root in ("models", "pipeline", "stages")
        for file in (ROOT / root).rglob("__init__.py")
    ]
    assert {file for file in packages if not runs_nothing(file)} == set(HANDS_ON)


def test_folders_are_small() -> None:
    for root in ("models", "pipeline", "benchmarks", "tests"):
        for folder in (ROOT / root).rglob("*/"):
            modules = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
            assert len(modules) <= 15, folder.relative_to(ROOT)


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_runs_the_module_of_its_name(stage: str) -> None:
    assert description(stage)["cmd"].startswith(f"python -m stages.{stage}")


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_tracks_parameters_that_exist(stage: str) -> None:
    known = {*Params.model_fields, "variants.${key}"}
    params = description(stage).get("params", [])
    assert {name if name in known else name.partition(".")[0] for name in params} <= known


def test_the_import_contracts_hold() -> None:
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def assert_one_clear_message(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def project(tmp_path: Path, old: str = "", new: str = "") -> Path:
    """Write the shipped params.yaml, edited, into a folder."""
    text = FIXED.read_text(encoding="utf-8")
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
        "import errno\nfrom pipeline.core.stage_script import run_stage\n"
        "def main(): raise OSError(errno.ENOSPC, 'No space left on device', 'big.npy')\n"
        "run_stage(main)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert_one_clear_message(result, "the disk is full (writing big.npy)")
