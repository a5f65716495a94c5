"""The command line: its frame, its exit codes, and help that teaches."""

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from models.errors import ParamsError
from pipeline.__main__ import VERBS, main
from pipeline.cli import bundle
from pipeline.cli.exit_codes import (
    DONE,
    FAILED,
    HUNG_UP,
    INTERRUPTED,
    NOTHING_FITS,
    PIPE_CLOSED,
    TERMINATED,
    WRONG_USAGE,
)
from pipeline.core.artifacts import write_json
from pipeline.core.progress import QUIET, progress
from pipeline.report.records import SUMMARY

HEAVY = {"torch", "mlflow", "timm", "altair", "onnx", "onnxruntime", "scipy"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == DONE
    text = capsys.readouterr().out
    examples = text.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    assert sum(f"python -m pipeline {verb}" in line for line in examples) >= 2
    assert all(line.startswith("    ") for line in examples)
    assert max(map(len, text.splitlines())) <= 102
    assert "--quiet" in text


def test_the_list_has_a_line_per_verb_and_every_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == DONE
    text = capsys.readouterr().out
    lines = " ".join(text.partition("\nverbs:\n")[2].split())
    for verb, module in VERBS.items():
        first = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        assert first.endswith(".")
        assert f"{verb} {first}" in lines
    listed = text.partition("exit codes:\n")[2].partition("\n\n")[0]
    stopped = (HUNG_UP, INTERRUPTED, PIPE_CLOSED, TERMINATED)
    codes = (DONE, FAILED, WRONG_USAGE, NOTHING_FITS, *stopped)
    assert [int(line.split()[0]) for line in listed.splitlines() if line] == list(codes)
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| {code} |" in documented for code in codes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["comprae"], "No such command 'comprae'. Did you mean 'compare'?"),
        ([], "verbs:"),
        (["compare", "--by", "beauty"], "'beauty' is not one of 'report', 'latency'"),
        (["compare", "--fron"], "No such option '--fron'. (Did you mean one of: '--front'"),
        (["compare", "--csv", "--json"], "--json and --csv exclude each other"),
    ],
)
def test_wrong_usage_is_named(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == WRONG_USAGE
    errors = capsys.readouterr().err
    assert errors.startswith("Usage: python -m pipeline")
    assert message in errors


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
        "for words in ('compare', 'choose', 'status --help', 'ui --help', '--help'):\n"
        "    main(words.split())\n"
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
    write_json(SUMMARY, summary | {"networks": summary["networks"] * 200})
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


def printed_by(seconds_between: float, monkeypatch: pytest.MonkeyPatch, **given: int) -> str:
    """Return what a loop of four steps of 10 s each prints where there is no terminal."""
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("pipeline.core.progress.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("pipeline.core.progress.LINE_EVERY_S", seconds_between)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    steps = iter(range(4)) if given else range(4)
    assert list(progress(steps, "epoch 1/3", unit="batch", **given)) == [0, 1, 2, 3]
    return sys.stderr.getvalue()


def test_without_a_terminal_a_long_loop_prints_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(QUIET, raising=False)
    assert printed_by(15, monkeypatch) == (
        "epoch 1/3: 1 of 4 batch, 0.1 batch/s, 60 s left\n"
        "epoch 1/3: 3 of 4 batch, 0.1 batch/s, 13 s left\n"
    )
    assert printed_by(100, monkeypatch) == ""
    assert printed_by(15, monkeypatch, total=8).startswith("epoch 1/3: 1 of 8 batch")
    monkeypatch.setenv(QUIET, "1")
    assert printed_by(15, monkeypatch) == ""


def test_in_a_terminal_a_bar_has_rate_and_time_left_and_goes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv(QUIET, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("pipeline.core.progress.time.monotonic", lambda: float(next(now)))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(3), "epoch [1/3]", unit="batch")) == [0, 1, 2]
    shown = sys.stderr.getvalue()
    assert "epoch [1/3]" in shown
    assert "2 of 3 batch, 0.1 batch/s, 15 s left" in shown
    assert shown.endswith("\x1b[2K"), "the line is erased"


def test_a_bundle_is_of_what_is_named_or_recommended(reported: Path) -> None:
    def stage(*named: Any, into: str | None = None) -> list[str]:
        variant, level, precision = (*named, None, None, None)[:3]
        return bundle.stage_command(variant, level, precision, into)[1:]

    module = ["-m", "stages.bundle"]
    assert stage("lacoot", 0) == [*module, "lacoot", "--level=0"]
    recommended = json.loads(SUMMARY.read_text())["recommendation"]["chosen"]
    assert stage(into="there") == [
        *(*module, recommended["variant"]),
        *(f"--level={recommended['level']}", "--precision=fp32", "--into=there"),
    ]
    with pytest.raises(ParamsError, match="--level and --precision are of a variant"):
        stage(None, 3)
    nothing = {"chosen": None, "reference": None, "reason": "no engine was timed"}
    write_json(SUMMARY, {"recommendation": nothing, "failures": {}, "networks": [], "engines": []})
    with pytest.raises(ParamsError, match=r"recommends nothing to ship \(no engine was timed\)"):
        stage()
