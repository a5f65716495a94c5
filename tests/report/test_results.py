"""The page of results says what was measured, and nothing else."""

import pytest
from places import ROOT

from benchmarks.page.choices import spearman
from benchmarks.page.results import TABLE, TABLES, filled
from benchmarks.page.tables import grouped, markdown

PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_its_tables_are_those_of_the_results() -> None:
    assert filled(PAGE) == PAGE, "python -m benchmarks.page.results"


def test_it_shows_every_table() -> None:
    assert {match[2] for match in TABLE.finditer(PAGE)} == set(TABLES)


def test_a_table_has_a_line_per_row() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert markdown(["a", "b"], []) == ""


def test_rows_are_grouped_in_the_order_in_which_they_come() -> None:
    rows = [{"way": "b", "n": 1}, {"way": "a", "n": 2}, {"way": "b", "n": 3}]
    assert {k: [r["n"] for r in v] for k, v in grouped(rows, lambda r: r["way"]).items()} == {
        "b": [1, 3],
        "a": [2],
    }


def test_a_constant_score_has_no_rank() -> None:
    assert spearman([1, 1, 1], [3, 2, 1]) == 0
    assert spearman([1, 2, 3], [10, 20, 40]) == pytest.approx(1)
