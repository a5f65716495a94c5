"""`status` on real runs of DVC, over stages that only copy; what a store holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tracked import track, write_params

from pipeline.__main__ import main
from pipeline.bundle.aging import OldBundle
from pipeline.cli.exit_codes import DONE
from pipeline.cli.status import (
    CHANGED,
    NEVER_RUN,
    UP_TO_DATE,
    StageStatus,
    stage_status,
    with_failure,
)
from pipeline.core.artifacts import write_json
from pipeline.core.params import PARAMS
from pipeline.report.failures import FAILED, Failure
from pipeline.report.tracking.store import TrackingError, store_in_words

Capture = pytest.CaptureFixture[str]
STAGES = {
    "prepare": {"cmd": "cp code.py images", "deps": ["code.py"], "outs": ["images"]},
    "train": {
        "foreach": "${variants}",
        "do": {
            "cmd": "cp images trained-${key}",
            "params": ["variants.${key}"],
            "deps": ["images"],
            "outs": ["trained-${key}"],
        },
    },
    "score": {
        "foreach": "${variants}",
        "do": {
            "cmd": "cp trained-${key} scored-${key}",
            "deps": ["trained-${key}"],
            "outs": ["scored-${key}"],
        },
    },
}


@pytest.fixture
def dvc_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project of three stages and two variants, none of them run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    init = [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
    subprocess.run(init, check=True, timeout=60)
    Path("code.py").write_text("1")
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    write_params("dense", "lacoot")
    return tmp_path


def states(capsys: Capture, *words: str) -> dict[str, list[tuple[str, str, str]]]:
    capsys.readouterr()
    assert main(["status", "--json", *words]) == DONE
    found = json.loads(capsys.readouterr().out)["stages"]
    return {
        variant: [(one["stage"], one["state"], one["why"]) for one in own]
        for variant, own in found.items()
    }


def test_from_never_run_to_up_to_date_and_changed(dvc_folder: Path, capsys: Capture) -> None:
    assert states(capsys) == {
        "(all variants)": [("prepare", NEVER_RUN, "")],
        "dense": [("train", NEVER_RUN, ""), ("score", NEVER_RUN, "")],
        "lacoot": [("train", NEVER_RUN, ""), ("score", NEVER_RUN, "")],
    }

    repro = [sys.executable, "-m", "dvc", "repro", "--quiet", "score@lacoot"]
    subprocess.run(repro, check=True, timeout=60)
    assert Path("scored-lacoot").exists()
    assert not Path("trained-dense").exists()
    assert states(capsys, "lacoot") == {
        "lacoot": [("train", UP_TO_DATE, ""), ("score", UP_TO_DATE, "")]
    }

    params = yaml.safe_load(PARAMS.read_text())
    params["variants"]["lacoot"] = {"train": {"epochs": 7}}
    PARAMS.write_text(yaml.safe_dump(params))
    Path("code.py").write_text("2")
    Path("scored-lacoot").unlink()
    write_json(FAILED, {"dense": {"stage": "train", "reason": "the loss is NaN"}})
    assert main(["status"]) == DONE
    shared, dense, lacoot, _, store, following = capsys.readouterr().out.splitlines()[-6:]
    words = [" ".join(line.split()) for line in (shared, dense, lacoot)]
    assert words == [
        "(all variants) changed 0 of 1 prepare code.py modified",
        "dense failed 0 of 2 train the loss is NaN",
        "lacoot changed 0 of 2 train param variants.lacoot",
    ]
    assert store == "MLflow: sqlite:///mlflow.db: not there yet; the stage `track` makes it"
    assert following.startswith("next: correct what failed")
    assert states(capsys, "lacoot")["lacoot"][1] == ("score", CHANGED, "scored-lacoot deleted")


def test_what_has_changed_is_listed_parameters_first() -> None:
    deps = {
        "pipeline/train": "modified",
        "artifacts/prepare": "deleted",
        "params.yaml": {"variants.wide": "modified", "train": "new"},
    }
    outs = {"artifacts/train/wide": "not in cache"}
    changes = [{"changed deps": deps}, {"changed outs": outs}, "changed command"]
    assert stage_status("train", changes, has_run=True) == StageStatus(
        "train", CHANGED, "param variants.wide, param train, pipeline/train modified and 3 more"
    )
    assert stage_status("train", changes, has_run=False).state == NEVER_RUN
    assert stage_status("probe", ["always changed"], has_run=True).state == UP_TO_DATE


def test_a_failure_stands_until_its_stage_has_run() -> None:
    failure = Failure("train", "the loss is NaN")
    (failed,) = with_failure([StageStatus("train", CHANGED)], failure)
    assert (failed.state, failed.why) == ("failed", "the loss is NaN")
    since = [StageStatus("train", UP_TO_DATE), StageStatus("score", CHANGED)]
    assert with_failure(since, failure) == since
    assert with_failure([StageStatus("train", CHANGED)], None) == [StageStatus("train", CHANGED)]


def test_a_failure_of_no_stage_is_of_the_first_that_is_left() -> None:
    found = [
        StageStatus("train", UP_TO_DATE),
        StageStatus("score", CHANGED),
        StageStatus("plan", NEVER_RUN),
    ]
    failed = with_failure(found, Failure("slurm", "job 7, TIMEOUT"))
    assert failed == [found[0], StageStatus("score", "failed", "job 7, TIMEOUT"), found[2]]
    assert with_failure(found[:1], Failure("slurm", "x")) == found[:1]


def test_of_a_variant_never_run_dvc_is_not_asked(
    dvc_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.status.changed_stages", lambda _: pytest.fail("it was"))
    assert states(capsys, "dense") == {
        "dense": [("train", NEVER_RUN, ""), ("score", NEVER_RUN, "")]
    }


def test_old_bundles_are_listed(
    dvc_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldBundle("artifacts/bundle/dense-l1-fp32", "python -m pipeline bundle dense")
    monkeypatch.setattr("pipeline.cli.status.old_bundles", lambda: [old])
    assert main(["status", "dense"]) == DONE
    line = f"{old.folder} is of an older network; `{old.remedy}` makes it anew"
    assert line in capsys.readouterr().out.splitlines()
    assert main(["status", "dense", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["old_bundles"] == [old._asdict()]


def test_an_unknown_variant_is_named(dvc_folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"no variant 'lacot' .* did you mean 'lacoot'"):
        main(["status", "lacot"])


def test_the_store_in_words_is_what_mlflow_holds(project: Path) -> None:
    uri = f"sqlite:///{project}/mlflow.db"
    assert store_in_words(uri, "shoal").endswith(": 0 runs of shoal, 0 runs of shoal-training")
    track()
    assert store_in_words(uri, "shoal") == f"{uri}: 6 runs of shoal, 0 runs of shoal-training"


def test_a_store_that_is_damaged_or_away_is_reported(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        store_in_words(f"sqlite:///{tmp_path}/mlflow.db", "shoal")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:1 cannot be used"):
        store_in_words("http://127.0.0.1:1", "shoal")
