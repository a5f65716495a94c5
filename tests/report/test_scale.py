"""A hundred variants of ten levels: the report, `compare` and `choose` stay quick and readable."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scale import write_project
from pipeline import plots
from pipeline.__main__ import main
from pipeline.commands import DONE
from pipeline.comparison import SUMMARY
from stages import report

VARIANTS, LEVELS = 100, 10


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a hundred variants with its report, which took less than 30 s of CPU."""
    folder = tmp_path_factory.mktemp("hundred")
    write_project(folder, VARIANTS, LEVELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start = time.process_time()
        report.main()
        assert time.process_time() - start < 30, "about 4 s on the machine it was written on"
    return folder


@pytest.fixture(autouse=True)
def _there(hundred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hundred)


def test_pictures_are_no_larger_and_name_the_best(hundred: Path) -> None:
    for path in Path("reports").glob("*.png"):
        with Image.open(path) as picture:
            assert max(picture.size) < 5000, path
    rows = json.loads(SUMMARY.read_text())["rows"]
    names = plots.named(rows)
    assert 0 < len(names) <= plots.MANY
    untimed = [row | {"latency_ms": {}} for row in rows]
    assert len(plots.named(untimed)) == plots.MANY  # no front to choose by
    best = max((row for row in rows if row["latency_ms"]), key=lambda r: r["test_accuracy_pct"])
    few = [row for row in rows if row["variant"] in {"dense", best["variant"]}]
    assert plots.named(few) == ["dense", best["variant"]], "of few each has a name"
    fronts = {row["variant"] for row in plots.pareto_front(rows, "onnxruntime")}
    assert set(names) <= fronts


def test_the_tables_keep_to_the_chosen_levels(hundred: Path) -> None:
    text = Path("reports/summary.md").read_text()
    assert text.startswith(f"Of {VARIANTS} variants the chosen levels alone; all 4000 rows:")
    depth = text.partition("## Depth")[2].partition("##")[0]
    assert sum(line.startswith("| lacoot_") for line in depth.splitlines()) == VARIANTS - 1


def test_the_command_line_stays_quick(hundred: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    assert main(["compare"]) == DONE
    text = capsys.readouterr().out
    assert "30 of 4000 lines" in text
    assert len(text.splitlines()) < 40
    assert main(["compare", "--csv"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 4001
    assert main(["choose"]) == DONE
    assert time.process_time() - start < 10, "about 0.5 s on the machine it was written on"


@pytest.mark.parametrize(
    ("labels", "columns"), [(["a"], 1), (["a"] * 9, 5), (["a" * 30] * 4, 2), (["a" * 90] * 3, 1)]
)
def test_a_legend_is_no_wider_than_its_figure(labels: list[str], columns: int) -> None:
    assert plots._legend_columns(labels, 7.0) == columns
