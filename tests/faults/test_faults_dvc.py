"""DVC started twice at once, and its cache damaged: told by one of both, and whole afterwards."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from places import ROOT
from undisturbed import FULL, VARIANT, Undisturbed, remove

WEIGHTS = f"artifacts/train/{VARIANT}/weights.safetensors"

pytestmark = [
    pytest.mark.skipif(not FULL, reason="a minute of DVC's own time; make faults does"),
]


def start_dvc(project: Path, *arguments: str) -> subprocess.Popen[str]:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["dvc", *arguments],
        cwd=project,
        env=os.environ | {"PATH": scripts, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def dvc(project: Path, *arguments: str) -> tuple[int, str]:
    process = start_dvc(project, *arguments)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@pytest.fixture
def project(base: Undisturbed, tmp_path: Path) -> Path:
    """The project with its code and its results in DVC's cache, as `dvc repro` leaves it."""
    made = tmp_path / "project"
    shutil.copytree(base.root, made)
    shutil.copy(ROOT / "dvc.yaml", made)
    remove(made / "dvc.lock")
    for folder in ("models", "pipeline", "stages", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "*.local")
        shutil.copytree(ROOT / folder, made / folder, ignore=ignored)
    code, output = dvc(made, "commit", "--force")
    assert code == 0, output
    return made


@pytest.mark.fault("two `dvc repro` at once")
def test_of_two_at_once_one_waits_or_is_told(project: Path) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["score"]["samples"] = 16
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    both = [start_dvc(project, "repro", "--single-item", f"score@{VARIANT}") for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, output in zip(codes, outputs, strict=True):
        assert "Traceback" not in output
        assert code == 0 or "lock" in output
    assert dvc(project, "repro", "--single-item", f"score@{VARIANT}")[0] == 0
    assert (
        json.loads((project / f"metrics/score/{VARIANT}.json").read_text("utf-8"))["samples"] == 16
    )
    assert "up to date" in dvc(project, "status", f"score@{VARIANT}")[1]


def _flip(data: bytearray) -> None:
    data[random.Random(0).randrange(len(data) // 2, len(data))] ^= 1


def _truncate(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.fault("damaged file in DVC's cache")
@pytest.mark.parametrize("damage", [_flip, _truncate])
def test_a_damaged_cache_is_told_and_mended_by_its_removal(
    damage: Callable[[bytearray], None], project: Path
) -> None:
    whole = (project / WEIGHTS).read_bytes()
    [cached] = [
        path
        for path in (project / ".dvc/cache/files/md5").rglob("*")
        if path.is_file() and path.read_bytes() == whole
    ]
    data = bytearray(whole)
    damage(data)
    cached.chmod(0o644)
    cached.write_bytes(data)
    cached.chmod(0o444)
    remove((project / WEIGHTS).parent)
    fetched, told = dvc(project, "checkout", f"train@{VARIANT}")
    code, output = dvc(project, "repro", "--force", "--single-item", f"score@{VARIANT}")
    assert (fetched, code) != (0, 0)
    assert "Traceback" not in output
    assert "not those that were written" in output or "train it again" in output or fetched, told
    cached.chmod(0o644)
    cached.unlink(missing_ok=True)
    remove((project / WEIGHTS).parent)
    code, output = dvc(project, "repro", "--force", "--single-item", f"train@{VARIANT}")
    assert code == 0, output
    assert (project / WEIGHTS).read_bytes() == whole
    assert dvc(project, "repro", "--force", "--single-item", f"score@{VARIANT}")[0] == 0
