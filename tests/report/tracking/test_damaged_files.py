"""Every JSON file of the stages, damaged in every way: one message that names it, or no harm."""

import json
from pathlib import Path

import pytest

from models.errors import ArtifactError, ShoalError
from pipeline.__main__ import main
from pipeline.cli.doctor.environment import environment
from pipeline.cli.doctor.finding import FAILS
from pipeline.cli.dvc import RWLOCK, remove_damaged_lock
from pipeline.core.params import load_params
from pipeline.report.tracking.dvc_lock import locked_stages
from pipeline.report.tracking.release import read_release
from pipeline.report.tracking.runs import read_comparison, read_runs
from stages import report

DAMAGES = ["", " ", "{}", "[]", "null", "5", '"x"', "[1]", "{", "\x00", "[" * 99999]


def read_everything() -> None:
    """What `report`, `track` and the verbs read; warnings of `track` are errors here."""
    params = load_params()
    report.main()
    runs = read_runs(params)
    read_release(params, read_comparison(params, runs))


def read_summary() -> None:
    params = load_params()
    read_release(params, read_comparison(params, read_runs(params)))
    for verb in ("compare", "choose"):
        if code := main([verb]):
            raise ShoalError(f"{verb} ended with {code}")


def files() -> list[Path]:
    of_a_variant = sorted(Path("metrics").glob("*/dense.json"))
    return [*sorted(Path("metrics").glob("*.json")), *of_a_variant, Path("reports/summary.json")]


def damaged(file: Path) -> list[str]:
    """Return damages; a value of another type of files that are read as records."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    shorter = [{k: v for k, v in whole.items() if k != key} for key in whole]
    is_record = file.parent.name not in {"metrics", "train"}
    wrong = [{**whole, key: None} for key in whole] if is_record else []
    return [*DAMAGES, *map(json.dumps, shorter), *map(json.dumps, wrong)]


def test_a_damaged_file_is_one_message_that_names_it(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write_reports", lambda *_: None)
    tried, wrong = 0, []
    for file in files():
        text = file.read_text(encoding="utf-8")
        read = read_summary if file.parts[0] == "reports" else read_everything
        for content in damaged(file):
            file.write_text(content, encoding="utf-8")
            tried += 1
            try:
                read()
            except (ShoalError, SystemExit) as e:
                if file.name not in str(e) or "\n" in str(e):
                    wrong.append((str(file), content[:80], str(e)[:200]))
            except Exception as e:  # noqa: BLE001 - that there is none is what is tested
                wrong.append((str(file), content[-80:], repr(e)[:200]))
        file.write_text(text, encoding="utf-8")
    assert tried > 200
    assert wrong == []


@pytest.mark.parametrize("content", ["- a", "stages: 5", "stages: {a: 1}", "[", "a", "5", "\x00"])
def test_a_damaged_lock_is_one_message(content: str, reported: Path) -> None:
    Path("dvc.lock").write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"^dvc.lock is not valid .*git checkout dvc.lock`$"):
        locked_stages()


@pytest.mark.parametrize("content", ["", "[]", "null", "{"])
def test_damaged_locks_of_dvc_are_found_by_the_doctor(content: str, reported: Path) -> None:
    RWLOCK.parent.mkdir(parents=True)
    RWLOCK.write_text(content, encoding="utf-8")
    (found,) = [each for each in environment() if each.subject == "dvc"]
    assert (found.state, found.remedy) == (FAILS, "rm .dvc/tmp/rwlock")
    remove_damaged_lock()  # as every command does that starts DVC
    assert not RWLOCK.exists()


def test_a_lock_of_dvc_that_can_be_read_stays(reported: Path) -> None:
    remove_damaged_lock()
    RWLOCK.parent.mkdir(parents=True, exist_ok=True)
    RWLOCK.write_text('{"write": {}, "read": {}}', encoding="utf-8")
    remove_damaged_lock()
    assert RWLOCK.exists()
