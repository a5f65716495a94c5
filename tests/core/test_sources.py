"""What DVC does not see: its contents are recorded, and read again only where they may differ."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import FIXED, ROOT
from stage_process import run_stage

from models.errors import ParamsError
from pipeline.core import sources
from pipeline.core.artifacts import read_json, write_json
from pipeline.core.params import load_params
from pipeline.core.sources import SOURCES, record_sources


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, a variant from weights, one that learns from it, one by its plan, one by nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("images/train/a/0.png", "images/train/b/0.png", "images/train/b/deep/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name, encoding="utf-8")
    Path("start.safetensors").write_text("start", encoding="utf-8")
    trained = Path("artifacts/train/first/weights.safetensors")
    trained.parent.mkdir(parents=True)
    trained.write_text("trained", encoding="utf-8")
    write_json(Path("metrics/plan/first.json"), {"levels": [{"level": 1, "removed": ["layer1.0"]}]})
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    params["prepare"] |= {"source": "image_folder", "path": "images"}
    plan = {"plan": "metrics/plan/first.json", "level": 1}
    params["variants"] = {
        "first": {"model": {"weights": "start.safetensors"}},
        "pupil": {"train": {"distill": {"teacher": "first"}}},
        "planned": {"train": {"strategy": {"name": "shallow", "remove": plan}}},
        "plain": {},
    }
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return tmp_path


def recorded() -> dict[str, Any]:
    record_sources(load_params())
    return {str(file.relative_to(SOURCES)): read_json(file) for file in SOURCES.rglob("*.json")}


def changed_by(change: Callable[[], object]) -> set[str]:
    before = recorded()
    change()
    now = recorded()
    return {Path(name).stem for name in before | now if before.get(name) != now.get(name)}


def rewrite(name: str, text: str) -> Callable[[], None]:
    """Write without changing size or modification time, as a copy that keeps times does."""

    def change() -> None:
        before = Path(name).stat()
        Path(name).write_text(text, encoding="utf-8")
        os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def edit(change: Callable[[dict], object]) -> Callable[[], None]:
    def edited() -> None:
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        change(params)
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    return edited


IMAGE = "images/train/b/deep/1.png"


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        (lambda: None, set()),
        (lambda: os.utime(IMAGE), set()),
        (lambda: shutil.copy(IMAGE, "images/new.png"), {"prepare"}),
        (lambda: Path(IMAGE).unlink(), {"prepare"}),
        (lambda: Path(IMAGE).rename("images/train/b/deep/2.png"), {"prepare"}),
        (lambda: Path("images/train/a").rename("images/train/c"), {"prepare"}),
        (rewrite(IMAGE, "!" * len(IMAGE)), {"prepare"}),
        (rewrite("start.safetensors", "other"), {"first", "pupil"}),
        (rewrite("artifacts/train/first/weights.safetensors", "another"), {"pupil"}),
        (
            lambda: write_json(
                Path("metrics/plan/first.json"), {"levels": [{"level": 1, "removed": ["layer2.0"]}]}
            ),
            {"planned"},
        ),
        (
            lambda: write_json(
                Path("metrics/plan/first.json"),
                {"levels": [{"level": 1, "removed": ["layer1.0"], "latency_ms": 2}]},
            ),
            set(),
        ),
        (edit(lambda p: p["variants"]["first"].update(train={"seed": 3})), {"pupil"}),
        (edit(lambda p: p["variants"].pop("planned")), {"planned"}),
        (edit(lambda p: p["benchmark"].update(rounds=3)), set()),
        # A clone has neither the images nor the weights, and DVC's cache has what was made of them.
        (lambda: shutil.rmtree("images"), set()),
        (lambda: Path("start.safetensors").unlink(), set()),
        (lambda: Path("metrics/plan/first.json").unlink(), set()),
    ],
)
def test_what_is_read_changes_the_record_of_those_that_read_it_and_of_no_other(
    change: Callable[[], object], affected: set[str], project: Path
) -> None:
    assert changed_by(change) == affected


def test_contents_are_read_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    hashed = sources.file_sha256
    monkeypatch.setattr(sources, "file_sha256", lambda file: read.append(file.name) or hashed(file))
    recorded()
    assert len(read) == 5
    recorded()
    assert len(read) == 5
    os.utime(IMAGE)
    recorded()
    assert read[5:] == ["1.png"]
    write_json(sources.CACHED, ["damaged"])
    recorded()
    assert len(read) == 11


def test_links_are_followed_and_circles_end(project: Path) -> None:
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_text("x", encoding="utf-8")
    Path("images/train/a/more").symlink_to(elsewhere)
    Path("images/train/a/circle").symlink_to(project / "images")
    assert changed_by(lambda: (elsewhere / "x.png").write_text("y", encoding="utf-8")) == {
        "prepare"
    }


NAMES = ["a; touch X #", "$(touch X)", "`touch X`", "--help", "-h", "-x", "_x", "a" * 300, "é" * 51]
NAMES += ["", " ", "a b", "a/b", "a'b", 'a"b', "a\nb", "1a", "a.b", "a|b", "a&b", "ä\u0301\u200b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_is_refused(name: str, project: Path) -> None:
    edit(lambda params: params["variants"].update({name: {}}))()
    with pytest.raises(ParamsError, match="start with a letter"):
        load_params()


def dvc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": path, "PYTHONPATH": "", "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


DESCRIBED = """
stages:
  sources: {sources}
  prepare:
    cmd: echo ran >> prepare.log
    deps: [metrics/sources/prepare.json]
  train:
    foreach: ${{variants}}
    do:
      cmd: echo ran >> ${{key}}.log
      deps: ["metrics/sources/train/${{key}}.json"]
"""


def test_dvc_runs_again_what_reads_a_file_that_was_replaced_and_nothing_else(
    project: Path,
) -> None:
    """And no command that holds a variant's name, before the name was seen to be one."""
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["sources"]
    text = DESCRIBED.format(sources=described)
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    for folder in ("models", "pipeline", "stages"):
        (project / folder).symlink_to(ROOT / folder)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    assert dvc("init", "-q", cwd=project).returncode == 0

    def taken() -> set[str]:
        logs = [*project.glob("*.log")]
        for log in logs:
            log.unlink()
        return {log.stem for log in logs}

    first = dvc("repro", cwd=project)
    assert first.returncode == 0, first.stderr
    assert taken() == {"prepare", "first", "pupil", "planned", "plain"}
    dvc("repro", cwd=project)
    assert taken() == set()
    rewrite("start.safetensors", "other")()
    rewrite(IMAGE, "!" * len(IMAGE))()
    dvc("repro", cwd=project)
    assert taken() == {"prepare", "first", "pupil"}

    edit(lambda params: params["variants"].update({"a; touch X.log #": {}}))()
    refused = dvc("repro", cwd=project)
    assert refused.returncode != 0
    assert "start with a letter" in refused.stderr
    assert taken() == set()


def test_results_that_would_leave_the_project_stop_the_first_stage(project: Path) -> None:
    Path("artifacts").rename("elsewhere")
    Path("artifacts").symlink_to("elsewhere")
    result = run_stage("sources", cwd=project)
    assert result.returncode == 1
    assert result.stderr.startswith("error: artifacts is a link to ")
    assert len(result.stderr.splitlines()) == 1
    assert not SOURCES.exists()


def test_a_folder_that_path_would_part_is_refused_before_the_set_up(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    setup = ["bash", str(ROOT / "scripts" / "setup.sh"), ".venv"]
    result = subprocess.run(setup, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "move the project to a folder without one" in result.stderr
    assert not list(folder.iterdir())
