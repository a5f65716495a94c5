"""The command line: its frame, its exit codes, and help that teaches."""

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import ParamsError
from pipeline.__main__ import VERBS, main
from pipeline.artifacts import write_json
from pipeline.commands import (
    DONE,
    FAILED,
    INTERRUPTED,
    NOTHING_FITS,
    PIPE_CLOSED,
    WRONG_USAGE,
    bundle,
)
from pipeline.comparison import SUMMARY
from pipeline.progress import QUIET, progress

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "mlflow", "timm", "matplotlib", "onnx", "onnxruntime", "scipy"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == DONE
    text = capsys.readouterr().out
    examples = text.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    assert sum(f"python -m pipeline {verb}" in line for line in examples) >= 2
    assert all(line.startswith("  ") for line in examples)
    assert max(map(len, (importlib.import_module(VERBS[verb]).__doc__ or "").splitlines())) <= 100


def test_the_list_has_a_line_per_verb_and_every_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for verb, module in VERBS.items():
        first = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        assert first.endswith(".")
        assert f"    {verb}" in text
    listed = text.partition("exit codes:\n")[2]
    codes = (DONE, FAILED, WRONG_USAGE, NOTHING_FITS, INTERRUPTED, PIPE_CLOSED)
    assert [int(line.split()[0]) for line in listed.splitlines() if line] == list(codes)
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| {code} |" in documented for code in codes)


@pytest.mark.parametrize("wrong", [["comprae"], [], ["compare", "--by", "beauty"]])
def test_wrong_usage_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(wrong)
    assert end.value.code == WRONG_USAGE
    assert "usage: python -m pipeline" in capsys.readouterr().err


def test_the_real_command_in_an_empty_folder(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pipeline", "compare"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == FAILED
    assert ended.stderr == "error: reports/summary.json is missing; `dvc repro` makes it\n"


def test_quick_verbs_import_nothing_heavy(reported: Path) -> None:
    code = (
        "import sys\nfrom pipeline.__main__ import main\n"
        "for words in (['compare'], ['choose'], ['status', '--help'], ['--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        f"print(sorted(sys.modules.keys() & {HEAVY!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=reported,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


def test_a_reader_that_goes_away_is_no_error(reported: Path) -> None:
    summary = json.loads(SUMMARY.read_text())
    write_json(SUMMARY, summary | {"rows": summary["rows"] * 200})
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m pipeline compare --json | head -1"],
        cwd=reported,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (PIPE_CLOSED, "[\n", "")


def test_ctrl_c_and_a_full_disk(
    reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = importlib.import_module(VERBS["compare"])
    monkeypatch.setattr(verb, "read_summary", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["compare"]) == INTERRUPTED
    full = OSError(28, "No space left on device", "big.npy")
    monkeypatch.setattr(verb, "read_summary", lambda: (_ for _ in ()).throw(full))
    with pytest.raises(SystemExit, match=r"the disk is full \(writing big.npy\)"):
        main(["compare"])


@pytest.mark.parametrize("arguments", [["-q", "compare"], ["compare", "-q"]])
def test_quiet_stands_on_either_side_of_the_verb(
    arguments: list[str],
    reported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(QUIET, "")
    assert main(arguments) == DONE
    assert "recommended" not in capsys.readouterr().out


def told_by(seconds_between: float, monkeypatch: pytest.MonkeyPatch, **given: int) -> str:
    """Return what a loop of four steps of 10 s each tells where there is no terminal."""
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("pipeline.progress.LINE_EVERY_S", seconds_between)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    steps = iter(range(4)) if given else range(4)
    assert list(progress(steps, "epoch 1/3", unit="batch", **given)) == [0, 1, 2, 3]
    return sys.stderr.getvalue()


def test_without_a_terminal_a_long_loop_tells_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(QUIET, raising=False)
    assert told_by(15, monkeypatch) == (
        "epoch 1/3: 1 of 4 batch, 0.1 batch/s, 60 s left\n"
        "epoch 1/3: 3 of 4 batch, 0.1 batch/s, 13 s left\n"
    )
    assert told_by(100, monkeypatch) == ""
    assert told_by(15, monkeypatch, total=8).startswith("epoch 1/3: 1 of 8 batch")
    monkeypatch.setenv(QUIET, "1")
    assert told_by(15, monkeypatch) == ""


def test_a_mistake_in_params_is_one_line_and_nothing_runs(reported: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("epochs: 3", "epochs: three"))
    with pytest.raises(SystemExit, match=r"train\.epochs = 'three'"):
        main(["repro"])
    assert not Path("dvc.yaml").exists()


def test_a_bundle_is_of_what_is_named_or_recommended(reported: Path) -> None:
    def asked(*words: str) -> list[str]:
        parser = argparse.ArgumentParser()
        bundle.add_arguments(parser)
        return bundle.stage_command(parser.parse_args(words))[1:]

    stage = ["-m", "stages.bundle"]
    assert asked("lacoot", "--level", "0") == [*stage, "lacoot", "--level=0"]
    recommended = json.loads(SUMMARY.read_text())["recommendation"]["chosen"]
    assert asked("--into", "there") == [
        *(*stage, recommended["variant"]),
        *(f"--level={recommended['level']}", "--precision=fp32", "--into=there"),
    ]
    with pytest.raises(ParamsError, match="--level and --precision are of a variant"):
        asked("--level", "3")
    nothing = {"chosen": None, "reference": None, "reason": "no engine was timed"}
    write_json(SUMMARY, {"rows": [], "recommendation": nothing})
    with pytest.raises(ParamsError, match=r"recommends nothing to ship \(no engine was timed\)"):
        asked()
