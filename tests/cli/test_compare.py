"""`compare` and `choose`: what they show, mark, sort, leave out, and end with."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from summaries import Rows, engine, network, summary

from pipeline.__main__ import main
from pipeline.cli.exit_codes import DONE, NOTHING_FITS, UNSETTLED, WRONG_USAGE
from pipeline.cli.text_table import Column, print_table
from pipeline.core.artifacts import write_json
from pipeline.core.params import Choose
from pipeline.core.progress import QUIET
from pipeline.report.comparison import ORDERS, Entry, entries
from pipeline.report.failures import FAILED as FAILURES
from pipeline.report.records import SUMMARY

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet_ends_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUIET, "")


def shown(capsys: Capture, *words: str) -> list[dict]:
    assert main(["compare", *words, "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def row(val: float, ms: float | None, precision: str = "fp32", level: int = 0) -> Rows:
    # The accuracy on test is such that it cannot be what decides.
    of = network("v", level, val, precision=precision, test_accuracy_pct=100.0 - val)
    return [(of, [] if ms is None else [engine(of, ms)])]


def found_in(*rows: Rows, limits: Choose | None = None) -> list[Entry]:
    nothing = Choose(latency_budget_ms=1e-9, max_accuracy_drop_pct=None)
    return entries(summary([one for each in rows for one in each], limits or nothing))


POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(POINTS)
def test_marked_is_what_nothing_beats_on_validation(points: list[tuple[int, int]]) -> None:
    found = found_in(*(row(float(v), float(ms), level=n) for n, (v, ms) in enumerate(points)))
    beaten = {
        (val, ms)
        for val, ms in points
        if any(v >= val and t <= ms and (v, t) != (val, ms) for v, t in points)
    }
    front = [(e.val_accuracy_pct, e.latency_ms) for e in found if e.front]
    assert sorted(front) == sorted(set(points) - beaten)


@given(POINTS)
def test_exactly_the_recommendation_is_marked(points: list[tuple[int, int]]) -> None:
    rows = [row(float(val), float(ms), level=n) for n, (val, ms) in enumerate(points)]
    chosen = summary([one for each in rows for one in each], Choose()).recommendation.chosen
    found = found_in(*rows, limits=Choose())
    assert [e.level for e in found if e.recommended] == ([chosen.level] if chosen else [])
    assert len(found) == len(points)


def test_what_is_lost_and_gained_is_against_the_whole_network() -> None:
    whole, half, int8, untimed = found_in(
        row(90.0, 8.0), row(89.5, 2.0, level=1), row(70.0, 4.0, "int8"), row(91.0, None, level=2)
    )
    assert (whole.lost_points, whole.speedup) == (0.0, 1.0)
    assert (half.lost_points, half.speedup) == (0.5, 4.0)
    assert (int8.lost_points, int8.speedup) == (20.0, 2.0)
    assert (untimed.backend, untimed.latency_ms, untimed.speedup) == (None, None, None)
    assert (untimed.lost_points, untimed.file_bytes) == (-1.0, 30)
    assert half.file_bytes == 40


def test_nothing_timed_is_no_reason_to_fail() -> None:
    (only,) = found_in(row(90.0, None))
    assert (only.lost_points, only.front, only.recommended) == (0.0, False, False)


def test_the_table_has_the_fastest_first_and_says_why(reported: Path, capsys: Capture) -> None:
    assert main(["compare"]) == DONE
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["variant", "level", "removed"]
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


def test_failed_variants_are_listed(reported: Path, capsys: Capture) -> None:
    write_json(FAILURES, {"wide": {"stage": "train", "reason": "the loss is NaN"}})
    main(["compare"])
    assert "failed: wide in train: the loss is NaN" in capsys.readouterr().out
    write_json(FAILURES, ["wide"])
    with pytest.raises(SystemExit, match=r"failed\.json is not as this version writes it"):
        main(["compare"])


@pytest.mark.parametrize("verb", ["compare", "choose"])
def test_unsettled_latencies_are_told_and_strict_ends_with_a_code(
    verb: str, reported: Path, capsys: Capture
) -> None:
    arguments = [verb, "--strict", *(["--max-drop", "none"] if verb == "choose" else [])]
    assert main(arguments) == DONE
    written = json.loads(SUMMARY.read_text(encoding="utf-8"))
    write_json(SUMMARY, written | {"unsettled": ["a fan failed"]})
    assert main(arguments) == UNSETTLED
    assert capsys.readouterr().err == "unsettled: a fan failed\n"
    arguments.remove("--strict")
    assert main(arguments) == DONE


@pytest.mark.parametrize("content", [[], {"rows": 3}, {"rows": [], "recommendation": 5}])
def test_a_report_of_another_version_is_one_line(reported: Path, content: object) -> None:
    write_json(SUMMARY, content)
    with pytest.raises(SystemExit, match=r"is not what this version of Shoal writes|holds no JSON"):
        main(["compare"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_has_fewer_columns_and_a_file_all(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    main(["compare", "-q"])
    text = re.sub(r"\x1b\[\d*m", "", terminal.getvalue())
    assert max(map(len, text.splitlines())) <= 60
    assert " ms" in text.splitlines()[0]
    assert "no room for" in text
    assert "\x1b[32m" not in terminal.getvalue()
    monkeypatch.delenv("NO_COLOR")
    main(["compare", "-q"])
    assert "\x1b[32m>" in terminal.getvalue()


@given(st.integers(1, 60), st.lists(st.text("abc", max_size=9), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_fits_or_has_only_what_must_stay(
    capsys: Capture, width: int, words: list[str]
) -> None:
    columns = [Column("must", str), Column("may", str, rank=1), Column("might", str, rank=2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        without = print_table(columns, words)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(words) + 1
    assert without in ([], ["might"], ["may", "might"])
    assert max(map(len, lines)) <= width
    assert print_table(columns, words) == []
    capsys.readouterr()


def test_the_choice_with_the_command_that_ships_it(reported: Path, capsys: Capture) -> None:
    assert main(["choose", "--max-drop", "none"]) == DONE
    text = capsys.readouterr().out
    assert text.startswith("dense level 2, fp32 on onnxruntime: -2.00 points")
    assert "removed blocks: layer1.0, layer2.1" in text
    assert text.endswith("python -m pipeline bundle dense --level 2 --precision fp32\n")
    assert main(["choose", "-q", "--latency-ms", "19"]) == DONE
    assert capsys.readouterr().out == "dense level 1, fp32 on onnxruntime\n"


def test_limits_not_given_are_those_of_params(reported: Path, capsys: Capture) -> None:
    main(["choose", "--json", "--latency-ms", "25"])
    found = json.loads(capsys.readouterr().out)
    assert found["limits"] == {
        "max_accuracy_drop_pct": 1.0,
        "latency_budget_ms": 25.0,
        "backend": None,
    }
    assert found["ship"] == "python -m pipeline bundle dense --level 0 --precision fp32"


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
    assert main(["choose", option, value]) == WRONG_USAGE
    assert f"Invalid value for '{option}'" in capsys.readouterr().err
