"""Studies of Optuna on variants whose numbers are a known function of their settings."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from models.errors import ArtifactError, BackendUnavailable, ParamsError
from pipeline.artifacts import write_json
from pipeline.failures import Failure
from pipeline.params import Params, load_params
from pipeline.study import LAMBDA, distributions, objectives, open_study, search

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests" / "params.yaml", tmp_path)


def write_metrics(variant: str, val_pct: float, p50_ms: float, **timed: float) -> None:
    """Write the metrics that the report reads: one level, whose test accuracy is another."""
    latencies = {name: {"128": {"p50": p50, "p90": 9, "p99": 9}} for name, p50 in timed.items()}
    latencies["onnxruntime"] = {
        "1": {"p50": 0.1, "p90": 9, "p99": 9},
        "128": {"p50": p50_ms, "p90": 9, "p99": 9},
    }
    rung = {"rung": "precision", "precision": "fp32", "backend": None, "status": "passed"}
    at_level = {
        "heal": {"level": 0, "removed": [], "replacement": "identity", "shipped": "removed"},
        "collapse": {"params": 1, "macs": 1},
        "precision": {"graphs": {"fp32": {"bytes": 1}}},
        "build": {"engines": {}},
        "verify": {"rungs": [rung | {"val_accuracy_pct": val_pct, "test_accuracy_pct": 1.0}]},
        "benchmark": {"latency_ms": {"fp32": latencies}},
    }
    write_json(Path(f"metrics/train/{variant}.json"), {"removed": []})
    for stage, level in at_level.items():
        content = {"chosen_level": 0, "levels": [level]}
        write_json(Path(f"metrics/{stage}/{variant}.json"), content)


class Runs:
    """Stands for the sweep: a smaller λ is more accurate and slower, `power` is better in both."""

    def __init__(
        self, fail: Sequence[int] = (), untimed: Sequence[int] = (), stop_after: int = 99
    ) -> None:
        self.fail, self.untimed, self.left = fail, untimed, stop_after
        self.batches: list[list[str]] = []

    def __call__(self, params: Params, names: Sequence[str]) -> Mapping[str, Failure]:
        self.batches.append(list(names))
        failed = {}
        for name in names:
            penalty = params.variants[name].train.penalty
            better = penalty.estimator == "power"
            write_metrics(name, 90 - penalty.weight + better, 20 - penalty.weight - better)
            number = int(name.rpartition("-")[2])
            if number in self.untimed:
                content = {"levels": [{"latency_ms": {}}]}
                write_json(Path(f"metrics/benchmark/{name}.json"), content)
            if number in self.fail:
                failed[name] = Failure("train", "x")
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return failed


def trials() -> list:
    return open_study(load_params(), distributions(AXES_OF_SEARCH)).trials


AXES_OF_SEARCH = {
    "train.penalty.estimator": ["random", "power"],
    "plan.search": ["one_shot"],
    "plan.max_accuracy_drop_pct": [1.0],
}


def test_trials_are_variants_and_the_front_is_of_those_not_beaten() -> None:
    runs = Runs(fail=[3])
    lines = search(AXES_OF_SEARCH, runs, print, trials=8, at_once=3)
    assert [len(batch) for batch in runs.batches] == [3, 3, 2]
    params = load_params()
    names = [name for batch in runs.batches for name in batch]
    assert list(params.variants) == ["dense", "lacoot", *names]
    states = [trial.state.name for trial in trials()]
    assert states == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 4
    values = {name: objectives(name, params) for name in names if not name.endswith("-3")}
    best = [
        name
        for name, (accuracy, latency) in values.items()
        if not any(a >= accuracy and ms <= latency and (a, ms) != (accuracy, latency)
                   for a, ms in values.values())
    ]  # fmt: skip
    shown = [line.split("|")[1].strip() for line in lines[2:]]
    assert shown == sorted(best, key=lambda name: values[name][1])
    for trial in trials():
        variant = params.variants[f"{names[0].rpartition('-')[0]}-{trial.number}"]
        assert variant.train.penalty.weight == float(f"{trial.params[LAMBDA]:.3g}")
        assert 0.1 <= variant.train.penalty.weight <= 10


def test_a_trial_that_was_not_timed_fails_and_the_study_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = Runs(untimed=[0])
    search(AXES_OF_SEARCH, runs, print, trials=3, at_once=2)
    assert [trial.state.name for trial in trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    name = runs.batches[0][0]
    assert f"no values for the study: {name} was not timed in fp32" in capsys.readouterr().out


def test_a_study_that_was_stopped_goes_on_with_the_trials_it_had_begun() -> None:
    with pytest.raises(KeyboardInterrupt):
        search(AXES_OF_SEARCH, Runs(stop_after=2), print, trials=6, at_once=2)
    runs = Runs()
    search(AXES_OF_SEARCH, runs, print, trials=6, at_once=2)
    assert [[name[-1] for name in batch] for batch in runs.batches] == [["2", "3"], ["4", "5"]]
    again = Runs()
    search(AXES_OF_SEARCH, again, print, trials=6, at_once=2)
    assert again.batches == []
    assert len({repr(trial.params) for trial in trials()}) == 6
    assert {trial.state.name for trial in trials()} == {"COMPLETE"}


def test_other_parameters_are_another_study() -> None:
    search(AXES_OF_SEARCH, Runs(), print, trials=1, at_once=1)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["train"]["epochs"] = 3
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    runs = Runs()
    search(AXES_OF_SEARCH, runs, print, trials=1, at_once=1)
    assert len(runs.batches) == 1


def test_time_that_is_over_begins_no_trial() -> None:
    runs = Runs()
    assert len(search(AXES_OF_SEARCH, runs, print, trials=9, at_once=1, timeout_s=0.0)) == 2
    assert runs.batches == []


def test_lambda_may_be_given_and_lists_may_not() -> None:
    assert distributions({LAMBDA: [0, 1]})[LAMBDA].choices == (0, 1)
    with pytest.raises(ParamsError, match=r"model.options: --optuna chooses numbers and words"):
        distributions({"model.options": [{"width": 8}]})


def test_objectives_are_of_validation_and_the_fastest_or_chosen_backend() -> None:
    write_metrics("a", 91.0, 5.0, openvino=3.0)
    params = load_params()
    assert objectives("a", params) == (91.0, 3.0)
    choose = params.choose.model_copy(update={"backend": "onnxruntime"})
    assert objectives("a", params.model_copy(update={"choose": choose})) == (91.0, 5.0)
    choose = params.choose.model_copy(update={"backend": "tensorrt"})
    with pytest.raises(ArtifactError, match="a was not timed in fp32 on tensorrt"):
        objectives("a", params.model_copy(update={"choose": choose}))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendUnavailable, match=r"optuna is not installed .*'\.\[sweep\]'"):
        search(AXES_OF_SEARCH, Runs(), print, trials=1, at_once=1)
