"""Plans by latency depend on the machine; the others are the same on every machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from places import FIXED

from pipeline.engines.backends.probe import probe
from stages import export, plan, score, train, yardstick

Project = Callable[..., None]


def read(*path: str) -> dict:
    return json.loads(Path(*path).read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A function that edits the `plan` section in a folder where `probe` has run."""
    monkeypatch.chdir(tmp_path)
    Path("artifacts/probe").mkdir(parents=True)
    Path("artifacts/probe/target.json").write_text(json.dumps(probe()), encoding="utf-8")

    def edit(**options: object) -> None:
        params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
        params["train"]["epochs"] = 1
        params["plan"] |= options
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return edit


@pytest.mark.parametrize("search", ["one_shot", "greedy"])
def test_a_plan_without_time_does_not_depend_on_the_machine(project: Project, search: str) -> None:
    project(search=search)
    yardstick.main("dense")
    assert read("artifacts/yardstick/dense.json") == {}


def test_the_stages_make_a_plan_by_latency(
    project: Project, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(prepared, "artifacts/prepare")
    Path("metrics").mkdir()
    shutil.copy(prepared / "manifest.json", "metrics/prepare.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # no server: nothing is sent
    project(search="latency_aware", latency_budget_ms=1000.0, replacement="bias")
    for stage in (train, score, export):
        stage.main("dense")
    yardstick.main("dense")
    plan.main("dense")
    planned = read("metrics/plan/dense.json")
    assert (planned["search"], planned["criterion"]) == ("latency_aware", "accuracy_lost_per_ms")
    assert set(planned["savings_ms"]) == set(planned["order"])
    assert len(planned["order"]) == 5
    levels = planned["levels"]
    assert [level["removed"] for level in levels] == [planned["order"][:n] for n in range(6)]
    best = max(level["val_accuracy_pct"] for level in levels)
    assert levels[planned["chosen_level"]]["val_accuracy_pct"] == best
    assert planned["measured_on"]["target"]["cpu"] == probe()["cpu"]
    assert planned["measured_on"]["timing"]["rounds"] == 3
    assert "alone saves" in capsys.readouterr().out
    assert {path.name for path in Path("artifacts/plan/dense").iterdir()} == {
        f"level_{n}.safetensors" for n in range(1, 6)
    }
