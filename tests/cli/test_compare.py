"""`compare` and `choose`: what they show, mark, sort, leave out, and end with."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.artifacts import write_json
from pipeline.choice import choose, timed
from pipeline.commands import DONE, NOTHING_FITS
from pipeline.comparison import ORDERS, SUMMARY, Entry, entries
from pipeline.failures import FAILED as FAILURES
from pipeline.params import Choose
from pipeline.progress import QUIET
from pipeline.text_table import Column, styled, table

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet_ends_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUIET, "")


def shown(capsys: Capture, *words: str) -> list[dict]:
    assert main(["compare", *words, "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def row(val: float, ms: float | None, precision: str = "fp32", level: int = 0) -> dict:
    return {
        "variant": "v",
        "level": level,
        "precision": precision,
        "removed": ["b"] * level,
        "removed_in_training": [],
        "val_accuracy_pct": val,
        "test_accuracy_pct": 100.0 - val,  # so that it cannot be what decides
        "engine_accuracy_pct": {},
        "params": 10,
        "macs": 20,
        "onnx_bytes": 30,
        "engine_bytes": {"onnxruntime": 40},
        "latency_ms": {} if ms is None else {"onnxruntime": {"p50": ms}},
    }


POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(POINTS)
def test_marked_is_what_nothing_beats_on_validation(points: list[tuple[int, int]]) -> None:
    rows = [row(float(val), float(ms), level=n) for n, (val, ms) in enumerate(points)]
    found = entries(rows, {"chosen": None})
    beaten = {
        (val, ms)
        for val, ms in points
        if any(v >= val and t <= ms and (v, t) != (val, ms) for v, t in points)
    }
    front = [(e.val_accuracy_pct, e.p50_ms) for e in found if e.front]
    assert sorted(front) == sorted(set(points) - beaten)


@given(POINTS)
def test_exactly_the_recommendation_is_marked(points: list[tuple[int, int]]) -> None:
    rows = [row(float(val), float(ms), level=n) for n, (val, ms) in enumerate(points)]
    choice = choose(rows, Choose())
    found = entries(rows, choice.to_json())
    assert [e.level for e in found if e.recommended] == (
        [choice.chosen.level] if choice.chosen else []
    )
    assert len(found) == len(timed(rows))


def test_what_is_lost_and_gained_is_against_the_whole_network() -> None:
    rows = [row(90.0, 8.0), row(89.5, 2.0, level=1), row(70.0, 4.0, "int8"), row(91.0, None)]
    whole, half, int8, untimed = entries(rows, {"chosen": None})
    assert (whole.lost_points, whole.speedup) == (0.0, 1.0)
    assert (half.lost_points, half.speedup) == (0.5, 4.0)
    assert (int8.lost_points, int8.speedup) == (20.0, 2.0)
    assert (untimed.backend, untimed.p50_ms, untimed.speedup) == (None, None, None)
    assert (untimed.lost_points, untimed.file_bytes) == (-1.0, 30)
    assert half.file_bytes == 40


def test_nothing_timed_is_no_reason_to_fail() -> None:
    (only,) = entries([row(90.0, None)], {"chosen": None})
    assert (only.lost_points, only.front, only.recommended) == (0.0, False, False)


def test_the_table_has_the_fastest_first_and_says_why(reported: Path, capsys: Capture) -> None:
    assert main(["compare"]) == DONE
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["variant", "level", "out"]
    rows = [line for line in lines if "onnxruntime" in line and "recommended" not in line]
    assert [float(line.split()[-5]) for line in rows] == [18.0, 18.0, 19.0, 19.0, 20.0, 20.0]
    marked = [line for line in rows if line.startswith(">")]
    assert [line.split()[1:3] for line in marked] == [["dense", "1"]]
    assert any(line.startswith("> recommended: dense level 1, fp32") for line in lines)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_best_first(order: str, reported: Path, capsys: Capture) -> None:
    found = [ORDERS[order](Entry(**entry)) for entry in shown(capsys, "--by", order)]
    assert found == sorted(found)
    assert len(found) == 6


def test_filters_and_top(reported: Path, capsys: Capture) -> None:
    found = shown(capsys, "--variant", "lac*", "--precision", "fp32", "--backend", "onnxruntime")
    assert {entry["variant"] for entry in found} == {"lacoot"}
    assert len(found) == 3
    assert len(shown(capsys, "--top", "2")) == 2
    assert {entry["front"] for entry in shown(capsys, "--front")} == {True}
    main(["compare", "--top", "1"])
    assert "1 of 6 lines (--top 0: all)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--variant", "lacot", "no variant 'lacot' in reports/summary.json; did you mean 'lacoot'"),
        ("--precision", "fp64", "there are fp32"),
        ("--backend", "tpu", "there are onnxruntime"),
    ],
)
def test_a_filter_that_fits_nothing_is_an_error(
    option: str, value: str, message: str, reported: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["compare", option, value])


def test_csv_has_every_field(reported: Path, capsys: Capture) -> None:
    assert main(["compare", "--csv", "--by", "report"]) == DONE
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["level"] for line in lines] == ["0", "1", "2"] * 2
    assert set(lines[0]) == set(Entry.__dataclass_fields__)


def test_failed_variants_are_told(reported: Path, capsys: Capture) -> None:
    write_json(FAILURES, {"wide": {"stage": "train", "reason": "the loss is NaN"}})
    main(["compare"])
    assert "failed: wide in train: the loss is NaN" in capsys.readouterr().out
    write_json(FAILURES, ["wide"])
    with pytest.raises(SystemExit, match=r"failed\.json is not as this version writes it"):
        main(["compare"])


@pytest.mark.parametrize("content", [[], {"rows": 3}, {"rows": [], "recommendation": 5}])
def test_a_report_of_another_version_is_one_line(reported: Path, content: object) -> None:
    write_json(SUMMARY, content)
    with pytest.raises(SystemExit, match="is not as this version writes it; `dvc repro report`"):
        main(["compare"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_has_fewer_columns_and_a_file_all(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    monkeypatch.setenv("NO_COLOR", "1")
    main(["compare", "-q"])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines[:-1])) <= 60
    assert "p50 ms" in lines[0]
    assert "no room for" in lines[-1]
    assert "\x1b" not in terminal.getvalue()
    monkeypatch.delenv("NO_COLOR")
    main(["compare", "-q"])
    assert "\x1b[32m>" in terminal.getvalue()


def test_a_style_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert styled("x", "red") == "x"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert styled("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("TERM", "dumb")
    assert styled("x", "red") == "x"


@given(st.integers(1, 60), st.lists(st.text("abc", max_size=9), max_size=5))
def test_a_table_fits_or_has_only_what_must_stay(width: int, words: list[str]) -> None:
    columns = [Column("must", str), Column("may", str, rank=1), Column("might", str, rank=2)]
    lines, left_out = table(columns, words, width)
    assert len(lines) == len(words) + 1
    assert left_out in ([], ["might"], ["may", "might"])
    assert left_out == ["may", "might"] or max(map(len, lines)) <= width
    assert table(columns, words, None)[1] == []


def test_the_choice_with_the_command_that_ships_it(reported: Path, capsys: Capture) -> None:
    assert main(["choose", "--max-drop", "none"]) == DONE
    text = capsys.readouterr().out
    assert text.startswith("dense level 2, fp32 on onnxruntime: -2.00 points")
    assert "blocks out: layer1.0, layer2.1" in text
    assert text.endswith("python -m pipeline bundle dense --level 2 --precision fp32\n")
    assert main(["choose", "-q", "--latency-ms", "19"]) == DONE
    assert capsys.readouterr().out == "dense level 1, fp32 on onnxruntime\n"


def test_limits_not_given_are_those_of_params(reported: Path, capsys: Capture) -> None:
    main(["choose", "--json", "--latency-ms", "25"])
    told = json.loads(capsys.readouterr().out)
    assert told["limits"] == {
        "max_accuracy_drop_pct": 1.0,
        "latency_budget_ms": 25.0,
        "backend": None,
    }
    assert told["ship"] == "python -m pipeline bundle dense --level 0 --precision fp32"


def test_nothing_that_fits_has_an_exit_code_of_its_own(reported: Path, capsys: Capture) -> None:
    assert main(["choose", "--latency-ms", "3"]) == NOTHING_FITS
    assert "the closest, dense level 1" in capsys.readouterr().err
    assert main(["choose", "--backend", "tensorrt", "--json"]) == NOTHING_FITS
    assert json.loads(capsys.readouterr().out)["ship"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("--latency-ms", "0"), ("--latency-ms", "fast"), ("--max-drop", "-1"), ("--max-drop", "nan")],
)
def test_a_limit_that_is_none_is_wrong_usage(option: str, value: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["choose", option, value])
    assert end.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err
