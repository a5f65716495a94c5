"""Stages and variants in an order in which each finds what it reads."""

from pathlib import Path

import pytest
import yaml

from models.errors import ParamsError
from pipeline.engines.machine import CudaDevice
from pipeline.failures import Failure
from pipeline.params import Params, validate
from pipeline.stage_order import stage_order, waves
from pipeline.sweep import in_vain, side_by_side, timed_stages

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def params(**variants: dict) -> Params:
    raw = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    return validate(raw | {"variants": variants}, Path("params.yaml"))


def test_the_stages_of_the_project() -> None:
    order = stage_order(STAGES)
    assert sorted([*order.before, *order.each, *order.after]) == sorted(STAGES)
    assert set(order.before) == {"prepare", "probe"}
    assert order.after == ["report", "track"]
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
        ("verify", "benchmark"),
        ("benchmark", "bundle"),
    ):
        assert each.index(earlier) < each.index(later)


def test_what_is_timed_runs_alone_with_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    each = stage_order(STAGES).each
    by_latency = {"plan": {"search": "latency_aware", "latency_budget_ms": 5.0}}
    made = params(dense={}, fast=by_latency)

    def alone(name: str, params: Params = made) -> list[str]:
        return each[side_by_side(each, timed_stages(params, params.variants[name])) :]

    monkeypatch.setattr("pipeline.sweep.cuda_devices", list)
    assert alone("dense") == ["benchmark", "bundle"]
    assert alone("fast")[0] == "plan"
    gpu = CudaDevice("a GPU", "8.6", 1)
    monkeypatch.setattr("pipeline.sweep.cuda_devices", lambda: [gpu])
    assert "tensorrt" in made.build.backends
    assert alone("dense") == ["build", "verify", "benchmark", "bundle"]
    build = made.build.model_copy(update={"backends": ["onnxruntime", "tensorrt_rtx"]})
    assert alone("dense", made.model_copy(update={"build": build})) == ["benchmark", "bundle"]


def test_who_learns_from_another_comes_later() -> None:
    taught = {"train": {"distill": {"teacher": "dense"}}}
    by_plan = {"train": {"strategy": {"remove": {"plan": "metrics/plan/taught.json", "level": 2}}}}
    made = params(planned=by_plan, taught=taught, dense={}, other={})
    assert list(waves(made, made.variants)) == [["dense", "other"], ["taught"], ["planned"]]
    assert list(waves(made, ["planned", "taught"])) == [["taught"], ["planned"]]


@pytest.mark.parametrize(
    ("name", "other", "stage", "waits"),
    [
        ("taught", "dense", "train", True),
        ("taught", "dense", "slurm", True),
        ("taught", "dense", "plan", False),
        ("planned", "taught", "train", True),
        ("planned", "taught", "plan", True),
        ("planned", "taught", "benchmark", False),
        ("planned", "dense", "train", False),
    ],
)
def test_who_learns_from_one_that_failed_before_it_could_teach_waits_in_vain(
    name: str, other: str, stage: str, waits: bool
) -> None:
    taught = {"train": {"distill": {"teacher": "dense"}}}
    by_plan = {"train": {"strategy": {"remove": {"plan": "metrics/plan/taught.json", "level": 2}}}}
    made = params(planned=by_plan, taught=taught, dense={})
    found = in_vain(made, name, stage_order(STAGES).each, {other: Failure(stage, "x")})
    assert found == (Failure("train", f"waits for {other}, which failed") if waits else None)


def test_variants_that_wait_for_each_other_are_told() -> None:
    def plan_of(name: str) -> dict:
        return {
            "train": {"strategy": {"remove": {"plan": f"metrics/plan/{name}.json", "level": 1}}}
        }

    made = params(a=plan_of("b"), b=plan_of("a"))
    with pytest.raises(ParamsError, match=r"variants wait for each other: [ab] → [ab] → [ab]"):
        list(waves(made, made.variants))
