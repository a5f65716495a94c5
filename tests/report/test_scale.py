"""A hundred variants of ten levels: the report, `compare` and `choose` stay quick and readable."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scale.stages import write_project
from pipeline.__main__ import main
from pipeline.cli.exit_codes import DONE
from pipeline.core.records import read_record
from pipeline.report.front import NAMED, named, pareto_front
from pipeline.report.records import SUMMARY, Summary
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
        assert time.process_time() - start < 30, "about 9 s on the machine it was written on"
    return folder


@pytest.fixture(autouse=True)
def _there(hundred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hundred)


def test_pictures_are_no_larger_and_name_the_best(hundred: Path) -> None:
    for path in Path("reports").glob("*.png"):
        with Image.open(path) as picture:
            assert max(picture.size) < 5000, path
    summary = read_record(SUMMARY, Summary)
    names = named(summary)
    assert 0 < len(names) <= NAMED
    assert set(names) <= {engine.variant for engine in pareto_front(summary.timed)}
    assert len(named(replace(summary, engines=[]))) == NAMED, "no front to choose by"
    few = [row for row in summary.networks if row.variant in {"dense", names[-1]}]
    engines = [engine for engine in summary.engines if engine.variant in {"dense", names[-1]}]
    both = replace(summary, networks=few, engines=engines)
    assert named(both) == ["dense", names[-1]], "of few each has a name"


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
