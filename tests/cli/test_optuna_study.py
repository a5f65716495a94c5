"""Studies of Optuna on variants whose numbers are a known function of their settings."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from places import FIXED
from proven_engines import write_variant

from models.errors import ArtifactError, BackendUnavailable, ParamsError
from pipeline.cli.sweep import optuna_study
from pipeline.cli.sweep.optuna_study import (
    LAMBDA,
    distributions,
    objectives,
    open_study,
    print_front,
    search,
)
from pipeline.core.params import Params, load_params
from pipeline.core.records import write_record
from pipeline.plan.records import HealedLevel, HealMetrics
from pipeline.report.failures import Failure


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXED, tmp_path)


VALUES: dict[str, tuple[float, float]] = {}  # validation accuracy and relative latency


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what `Runs` wrote for what was measured."""
    VALUES.clear()

    def known(variant: str, params: Params) -> tuple[float, float]:
        if variant not in VALUES:
            raise ArtifactError(f"{variant} cannot be timed")
        return VALUES[variant]

    monkeypatch.setattr(optuna_study, "objectives", known)


studies = pytest.mark.usefixtures("_known")


class Runs:
    """Stands for the sweep: a smaller λ is more accurate and slower, `power` is better in both."""

    def __init__(
        self, fail: Sequence[int] = (), untimed: Sequence[int] = (), stop_after: int = 99
    ) -> None:
        self.fail, self.untimed, self.left = fail, untimed, stop_after
        self.batches: list[list[str]] = []

    def __call__(self, params: Params, names: Sequence[str]) -> Mapping[str, Failure]:
        first, *names = names
        assert first == "dense", "what latencies relate to"
        self.batches.append(names)
        failed = {}
        for name in names:
            penalty = params.variants[name].train.penalty
            better = penalty.estimator == "power"
            number = int(name.rpartition("-")[2])
            if number not in self.untimed:
                latency = 20 - penalty.weight - better
                VALUES[name] = (90 - penalty.weight + better, latency)
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


@studies
def test_trials_are_variants_and_the_front_is_of_those_not_beaten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = Runs(fail=[3])
    study = search(AXES_OF_SEARCH, runs, print, trials=8, at_once=3)
    assert [len(batch) for batch in runs.batches] == [3, 3, 2]
    params = load_params()
    names = [name for batch in runs.batches for name in batch]
    assert list(params.variants) == ["dense", "lacoot", *names]
    states = [trial.state.name for trial in trials()]
    assert states == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 4
    values = {name: VALUES[name] for name in names if not name.endswith("-3")}
    best = [
        name
        for name, (accuracy, latency) in values.items()
        if not any(a >= accuracy and ms <= latency and (a, ms) != (accuracy, latency)
                   for a, ms in values.values())
    ]  # fmt: skip
    print_front(study)
    lines = capsys.readouterr().out.splitlines()  # long settings go on in lines of their own
    shown = [line.split()[0] for line in lines if line.startswith("trial-")]
    assert shown == sorted(best, key=lambda name: values[name][1])
    for trial in trials():
        variant = params.variants[f"{names[0].rpartition('-')[0]}-{trial.number}"]
        assert variant.train.penalty.weight == float(f"{trial.params[LAMBDA]:.3g}")
        assert 0.1 <= variant.train.penalty.weight <= 10


@studies
def test_a_trial_that_was_not_timed_fails_and_the_study_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = Runs(untimed=[0])
    search(AXES_OF_SEARCH, runs, print, trials=3, at_once=2)
    assert [trial.state.name for trial in trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    name = runs.batches[0][0]
    assert f"no values for the study: {name} cannot be timed" in capsys.readouterr().out


@studies
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


@studies
def test_other_parameters_are_another_study() -> None:
    search(AXES_OF_SEARCH, Runs(), print, trials=1, at_once=1)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["train"]["epochs"] = 3
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    runs = Runs()
    search(AXES_OF_SEARCH, runs, print, trials=1, at_once=1)
    assert len(runs.batches) == 1


@studies
def test_time_that_is_over_begins_no_trial() -> None:
    runs = Runs()
    search(AXES_OF_SEARCH, runs, print, trials=9, at_once=1, minutes=0.0)
    assert runs.batches == []


def test_lambda_may_be_given_and_lists_may_not() -> None:
    assert distributions({LAMBDA: [0, 1]})[LAMBDA].choices == (0, 1)
    with pytest.raises(ParamsError, match=r"model.options: --optuna chooses numbers and words"):
        distributions({"model.options": [{"width": 8}]})


def test_objectives_are_of_validation_and_relative_to_the_first_variant(prepared: Path) -> None:
    for variant, depths in (("dense", (9, 5)), ("lacoot", (9, 1))):
        write_variant(variant, size=32, depths=depths)
        levels = [HealedLevel(n, [], "identity", "removed", {"removed": 1.0}) for n in range(2)]
        healed = HealMetrics(variant, "removed", 1, 0, 0.1, {}, "cpu", levels, 1)
        write_record(Path(f"metrics/heal/{variant}.json"), healed)
    Path("artifacts/prepare").symlink_to(prepared)
    params = load_params()
    accuracy, ratio = objectives("lacoot", params)
    assert accuracy == 90.25, "of level 1, on validation"
    assert 0 < ratio < 0.7, "one convolution instead of nine"
    assert objectives("dense", params)[1] > ratio
    choose = params.choose.model_copy(update={"backend": "tensorrt"})
    with pytest.raises(ArtifactError, match="lacoot cannot be timed in fp32 on tensorrt against"):
        objectives("lacoot", params.model_copy(update={"choose": choose}))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendUnavailable, match=r"optuna is not installed .*'\.\[sweep\]'"):
        search(AXES_OF_SEARCH, Runs(), print, trials=1, at_once=1)
