"""Metrics files are read as what stands there, or refused by a message that names the file."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.errors import ArtifactError
from pipeline.core.records import read_record, write_record


@dataclass(frozen=True)
class Part:
    name: str
    share: float


@dataclass(frozen=True)
class Measured:
    count: int
    seconds: float
    parts: list[Part] = field(default_factory=list)


RECORD = Measured(3, 0.5, [Part("a", 1.0)])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path / "measured.json", RECORD)
    assert read_record(tmp_path / "measured.json", Measured) == RECORD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"count": 3, "seconds": NaN}', "NaN is no finite number"),
        ('{"count": 3, "seconds": -Infinity}', "-Infinity is no finite number"),
        ('{"count": 3, "seconds": 9e999}', "9e999 is no finite number"),
        (f'{{"count": 3, "seconds": {10**400}}}', "is no finite number"),
        ('{"count": true, "seconds": 1}', "(count: Input should be a valid integer)"),
        ('{"count": 3, "seconds": "1"}', "(seconds: Input should be a valid number)"),
        ('{"count": 3.0, "seconds": 1}', "(count: Input should be a valid integer"),
        ('{"count": 3, "seconds": 1, "parts": [{"name": "a"}]}', "(parts.0.share: Field required"),
        ("[1, 2]", "holds no JSON object"),
    ],
)
def test_what_no_stage_writes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_record(path, Measured)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "`dvc repro`" in str(caught.value)


def test_whole_numbers_may_stand_for_others(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text(json.dumps({"count": 3, "seconds": 2}))
    assert read_record(tmp_path / "measured.json", Measured) == Measured(3, 2.0)
