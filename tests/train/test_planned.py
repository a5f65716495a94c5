"""A strategy that removes what a plan removes."""

from pathlib import Path

import pytest
import yaml
from places import FIXED

from models.errors import ParamsError
from pipeline.core.params import Variant, validate
from pipeline.core.records import write_record
from pipeline.plan.records import PlanMetrics
from pipeline.plan.records import PlannedLevel as Level
from pipeline.train.run import planned

NAMES = ["layer1.0", "layer2.1"]


def variant(remove: object) -> Variant:
    raw = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    raw["variants"] = {"a": {"train": {"strategy": {"name": "anneal", "remove": remove}}}}
    return validate(raw, Path("params.yaml")).variant("a")


def removed(remove: object) -> object:
    return planned(variant(remove)).train.strategy.remove


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    levels = [Level(n, NAMES[:n], "identity", 90.0, {}) for n in range(3)]
    write_record(path, PlanMetrics("a", "one_shot", "msw", 1.0, NAMES, {}, levels, 1))
    return path


def test_a_plan_names_the_blocks(plan: Path) -> None:
    assert removed({"plan": str(plan), "level": 2}) == NAMES
    assert removed(3) == 3


def test_a_level_that_the_plan_does_not_have_is_an_error(plan: Path) -> None:
    with pytest.raises(ParamsError, match=r"level = 7, but .*plan.json ends at 2"):
        removed({"plan": str(plan), "level": 7})


def test_what_is_no_plan_is_an_error(plan: Path) -> None:
    wanted = {"plan": str(plan), "level": 2}
    message = "is no plan; it takes a file that the stage plan wrote: metrics/plan/<variant>.json"
    for content in ("[]", '{"levels": []}', "{"):
        plan.write_text(content, encoding="utf-8")
        with pytest.raises(ParamsError, match=message):
            removed(wanted)
    plan.unlink()
    with pytest.raises(ParamsError, match=rf"{message} \(.*plan.json is missing"):
        removed(wanted)
    plan.mkdir()
    with pytest.raises(ParamsError, match=message):
        removed(wanted)
