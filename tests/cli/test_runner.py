"""Stages and variants in an order in which each finds what it reads."""

from pathlib import Path

import pytest
import yaml
from places import FIXED, ROOT

from models.errors import ParamsError
from pipeline.cli.dvc import in_order
from pipeline.cli.sweep.runner import Workers, rounds
from pipeline.core.params import Params, validate

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def params(**variants: dict) -> Params:
    raw = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    return validate(raw | {"variants": variants}, Path("params.yaml"))


def test_the_stages_of_the_project() -> None:
    order = in_order(STAGES)
    assert sorted([*order.before, *order.each, *order.after]) == sorted(STAGES)
    assert order.after == ["benchmark", "report", "track"]
    assert set(order.before) == {"sources", "prepare", "probe"}
    each = order.each
    for earlier, later in (
        ("train", "score"),
        ("score", "plan"),
        ("export", "plan"),
        ("yardstick", "plan"),
        ("plan", "heal"),
        ("heal", "collapse"),
        ("collapse", "precision"),
        ("precision", "build"),
        ("build", "verify"),
        ("verify", "bundle"),
    ):
        assert each.index(earlier) < each.index(later)


def test_what_is_timed_runs_alone_with_all_that_follows() -> None:
    each = in_order(STAGES).each
    by_latency = {"plan": {"search": "latency_aware", "latency_budget_ms": 5.0}}

    def parts(made: Params, *, share_machine: bool) -> list[str]:
        workers = Workers(lambda _jobs, _ended: None, share_machine)
        found = [part for part, _ in workers.parts(each, made)]
        assert [stage for part in found for stage in part] == each
        assert "train" in found[0]
        return [part[0] for part in found[1:]]

    assert parts(params(dense={}), share_machine=True) == ["build"]
    assert parts(params(dense={}, fast=by_latency), share_machine=True) == ["plan"]
    assert parts(params(dense={}), share_machine=False) == []


def test_who_learns_from_another_comes_later() -> None:
    taught = {"train": {"distill": {"teacher": "dense"}}}
    by_plan = {"train": {"strategy": {"remove": {"plan": "metrics/plan/taught.json", "level": 2}}}}
    made = params(planned=by_plan, taught=taught, dense={}, other={})
    assert list(rounds(made, made.variants)) == [["dense", "other"], ["taught"], ["planned"]]
    assert list(rounds(made, ["planned", "taught"])) == [["taught"], ["planned"]]


def test_variants_that_wait_for_each_other_are_named() -> None:
    def plan_of(name: str) -> dict:
        return {
            "train": {"strategy": {"remove": {"plan": f"metrics/plan/{name}.json", "level": 1}}}
        }

    made = params(a=plan_of("b"), b=plan_of("a"))
    with pytest.raises(ParamsError, match=r"variants wait for each other: [ab] → [ab] → [ab]"):
        list(rounds(made, made.variants))
