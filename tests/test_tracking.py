"""The MLflow mirror and the live stream, against real SQLite stores."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from models.errors import ArtifactError
from pipeline import store
from pipeline.artifacts import write_json
from pipeline.params import Params, load_params
from pipeline.records import STAGES, read_runs, state
from pipeline.runs import flat_numbers, flat_params
from pipeline.store import TrackingError, shown
from pipeline.tracking import TrackReport, live_training, mirror

ROOT = Path(__file__).parents[1]
BLOCKS = ["layer1.0", "layer2.1"]
PLOTS = ["accuracy_latency.png", "distances.png"]
RUNG = {
    "rung": "precision",
    "precision": "fp32",
    "backend": None,
    "max_abs": 1e-6,
    "max_rel": 1e-7,
    "cosine": 1.0,
    "top1_agreement": 1.0,
}
TIMED = {"p50": 0.75, "p50_ci": [0.7, 0.8], "images_per_s": 1300.0}
PIXEL = bytes.fromhex("89504e470d0a1a0a")

# SQLAlchemy tells MLflow's authors, not us, that one of its loader strategies goes away.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def summary_row(variant: str, level: int, p50: float) -> dict:
    return {
        "variant": variant,
        "level": level,
        "precision": "fp32",
        "removed": BLOCKS[:level],
        "val_accuracy_pct": 90.0 - level,
        "val_accuracy_bn_pct": 90.25,
        "test_accuracy_pct": 89.5 - level,
        "params": 700_000 - level,
        "macs": 36_000_000 - level,
        "onnx_bytes": 2_800_000 - level,
        "engine_bytes": {"onnxruntime": 2_800_001 - level, "tensorrt_rtx": 2_900_000 - level},
        "latency_ms": {"onnxruntime": {"p50": p50 - level, "p90": p50 + 1, "p99": p50 + 2}},
        "chosen": level == 1,
    }


def write_variant(variant: str, p50: float = 20.0) -> None:
    """Write what the stages write for one variant, with the level-0 latency `p50`."""
    levels = [{"level": level, "removed": BLOCKS[:level]} for level in range(3)]
    lambda_ = 5.0 if variant == "lacoot" else 0.0
    epoch = {"epoch": 1, "loss": 0.5, "distances": dict.fromkeys(BLOCKS, 0.1)}
    content = {
        "train": {
            "model": {"name": "resnet18_cifar", "pretrained": False, "options": {"width": 16}},
            "train": {
                "epochs": 1,
                "learning_rate": 0.1,
                "precision": "auto",
                "penalty": {"lambda": lambda_, "estimator": "random", "projections": 50},
            },
            "method": {"mode": "paper", "unit": "auto"},
            "device": "cpu",
            "precision": "bfloat16",
            "seconds": 12.5,
            "images_per_s": 4000.0,
            "epochs": [epoch],
        },
        "score": {"samples": 16, "scores": {"msw": dict.fromkeys(BLOCKS, 0.1)}},
        "plan": {
            "criterion": "msw",
            "chosen_level": 1,
            "levels": levels,
        },
        "collapse": {"levels": [level | {"nodes": 50} for level in levels]},
        "precision": {"levels": levels},
        "build": {
            "not_available": {"tensorrt": "not installed"},
            "levels": [
                level | {"engines": {"fp32": {"onnxruntime": {"seconds": 0.5}}}} for level in levels
            ],
        },
        "verify": {"levels": [level | {"rungs": [RUNG]} for level in levels]},
        "benchmark": {
            "not_timed": {"tensorrt_rtx": "no CUDA device"},
            "levels": [
                level | {"latency_ms": {"fp32": {"onnxruntime": {"1": TIMED}}}} for level in levels
            ],
        },
    }
    for stage, values in content.items():
        write_json(Path("metrics", stage, f"{variant}.json"), {"variant": variant, **values})
    path = Path("reports/summary.json")
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in rows if row["variant"] != variant]
    write_json(path, rows + [summary_row(variant, level, p50) for level in range(3)])
    record_in_lock(f"benchmark@{variant}", p50)


def record_in_lock(stage: str, content: object) -> None:
    """Put an entry into dvc.lock that changes with `content`, as DVC does when a stage ends."""
    path = Path("dvc.lock")
    lock = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
    lock["stages"][stage] = {"cmd": f"python -m stages.{stage}", "outs": [{"md5": repr(content)}]}
    path.write_text(yaml.safe_dump(lock))


def write_params(*variants: str) -> Params:
    """Write the project's own params.yaml with these variants."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["variants"] = {variant: {} for variant in variants}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    return load_params()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mirror("other", [])
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as it is after `dvc repro` of two variants with three levels; its store is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    shutil.copy(empty_store, tmp_path)
    manifest = {
        "source": "fashion_mnist",
        "classes": ["boot", "shirt"],
        "counts": {"train": {"boot": 5, "shirt": 6}, "test": {"boot": 1, "shirt": 1}},
        "sha256": {"train.npz": "ab" * 32},
    }
    write_json(Path("metrics/prepare.json"), manifest)
    record_in_lock("prepare", manifest)
    for variant in ("dense", "lacoot"):
        write_variant(variant)
    for plot in PLOTS:
        Path("reports", plot).write_bytes(PIXEL)
    write_params("dense", "lacoot")
    return tmp_path


def track() -> TrackReport:
    params = load_params()
    return mirror(params.name, read_runs(params))


def client():
    from mlflow.tracking.client import MlflowClient

    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def runs_of(experiment: str) -> dict:
    """Return the runs by name; a name that occurs twice fails."""
    found = client().get_experiment_by_name(experiment)
    runs = client().search_runs([found.experiment_id], max_results=1000)
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def test_every_column_of_the_summary_is_in_the_runs(project: Path) -> None:
    track()
    runs = runs_of("shoal")
    rows = json.loads((project / "reports/summary.json").read_text())
    assert sorted(runs) == [f"{v}-l{level}-fp32" for v in ("dense", "lacoot") for level in range(3)]
    texts = {"variant", "precision", "removed"}
    for row in rows:
        data = runs[f"{row['variant']}-l{row['level']}-fp32"].data
        assert data.tags["variant"] == row["variant"]
        assert data.params["removed"] == (", ".join(row["removed"]) or "none")
        columns = {key: value for key, value in row.items() if key not in texts}
        for name, value in flat_numbers(columns).items():
            assert data.metrics[name] == value, name
        for column in columns:
            assert any(name.split(".")[0] == column for name in data.metrics), column


def test_a_run_holds_settings_measurements_and_reasons(project: Path) -> None:
    track()
    run = runs_of("shoal")["lacoot-l1-fp32"]
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "resnet18_cifar"
    assert run.data.params["model.width"] == "16"
    assert run.data.params["lambda"] == "5.0"
    assert run.data.params["trained_in"] == "bfloat16"
    assert run.data.params["precision"] == "fp32"
    assert run.data.params["criterion"] == "msw"
    assert run.data.params["method.mode"] == "paper"
    assert run.data.metrics["removed_blocks"] == 1
    assert run.data.metrics["chosen"] == 1
    assert run.data.metrics["val_accuracy_bn_pct"] == 90.25
    assert run.data.metrics["parity.max_abs"] == 1e-6
    assert run.data.metrics["latency_ms.onnxruntime.batch_1.p50"] == 0.75
    assert run.data.metrics["images_per_s.onnxruntime.batch_1"] == 1300.0
    assert run.data.metrics["build_seconds.onnxruntime"] == 0.5
    assert run.data.tags["level"] == "1"
    assert run.data.tags["shoal.group"] == state("lacoot")
    assert run.data.tags["not_timed.tensorrt_rtx"] == "no CUDA device"
    assert run.data.tags["not_available.tensorrt"] == "not installed"
    assert not any(key.startswith("mlflow.parentRunId") for key in run.data.tags)


def test_a_run_names_its_data_and_carries_plots_and_metrics(project: Path) -> None:
    track()
    run = runs_of("shoal")["dense-l0-fp32"]
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "fashion_mnist"
    assert len(entry.dataset.digest) == 16
    assert json.loads(entry.dataset.profile) == {
        "num_rows": 13,
        "train": 11,
        "test": 2,
        "classes": 2,
    }
    files = client().list_artifacts(run.info.run_id, "plots")
    assert [file.path for file in files] == [f"plots/{name}" for name in PLOTS]
    stored = project / "mlartifacts" / run.info.run_id / "artifacts"
    assert (stored / "plots" / PLOTS[0]).read_bytes() == PIXEL
    for stage in STAGES:
        assert (stored / "metrics" / stage / "dense.json").is_file()


def test_the_commit_is_a_tag_inside_a_repository_only(project: Path) -> None:
    track()
    assert "git_commit" not in runs_of("shoal")["dense-l0-fp32"].data.tags
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (run, *_) = read_runs(load_params())
    assert run.tags["git_commit"] == head.stdout.strip()


def test_a_second_mirror_adds_nothing(project: Path) -> None:
    first, second = track(), track()
    assert (first.added, first.present) == (6, 0)
    assert (second.added, second.present) == (0, 6)
    assert len(runs_of("shoal")) == 6


def test_a_changed_variant_adds_only_its_runs(project: Path) -> None:
    track()
    write_variant("lacoot", p50=15.0)
    report = track()
    assert (report.added, report.present) == (3, 3)


def test_a_new_column_of_the_report_adds_runs(project: Path) -> None:
    track()
    rows = json.loads(Path("reports/summary.json").read_text())
    rows[0]["energy_mj"] = 1.5
    write_json(Path("reports/summary.json"), rows)
    assert track().added == 1


def test_a_removed_variant_is_not_read_and_its_runs_stay(project: Path) -> None:
    track()
    write_params("lacoot")
    Path("metrics/train/dense.json").unlink()
    report = track()
    assert (report.added, report.present) == (0, 3)
    assert len(runs_of("shoal")) == 6


def test_a_half_written_run_is_deleted_and_redone(project: Path) -> None:
    track()
    half = runs_of("shoal")["lacoot-l2-fp32"].info.run_id
    client().update_run(half, status="RUNNING")
    report = track()
    assert (report.added, report.present) == (1, 5)
    redone = runs_of("shoal")["lacoot-l2-fp32"]
    assert redone.info.run_id != half
    assert redone.info.status == "FINISHED"
    assert redone.data.metrics["level"] == 2


def test_a_trashed_experiment_comes_back(project: Path) -> None:
    track()
    client().delete_experiment(client().get_experiment_by_name("shoal").experiment_id)
    assert track().present == 6


def test_state_follows_the_lock_entries_of_the_variant_and_prepare(project: Path) -> None:
    states = [state("lacoot")]
    record_in_lock("benchmark@dense", "other")
    record_in_lock("report", "other")
    assert state("lacoot") == states[0]
    for stage in ("collapse@lacoot", "prepare"):
        record_in_lock(stage, "other")
        states.append(state("lacoot"))
    Path("dvc.lock").unlink()  # the stages were run by hand
    states.append(state("lacoot"))
    write_variant("lacoot", p50=14.0)
    Path("dvc.lock").unlink()
    write_json(Path("metrics/plan/lacoot.json"), {"levels": []})
    states.append(state("lacoot"))
    assert len(set(states)) == len(states)


def test_missing_inputs_are_told(project: Path) -> None:
    write_params("dense", "unseen")
    with pytest.raises(ArtifactError, match=r"no row of variant 'unseen'"):
        read_runs(load_params())
    Path("dvc.lock").write_text("<<<<<<< HEAD\n\t: :")
    with pytest.raises(ArtifactError, match=r"dvc.lock is not valid YAML"):
        state("dense")


def start_stage(name: str, **env: str) -> subprocess.Popen:
    """Start ``python -m stages.<name>`` in the current folder, on the default store."""
    inherited = {key: os.environ[key] for key in os.environ if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}"],
        env=inherited | {"PYTHONPATH": str(ROOT)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_stage(name: str, **env: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a stage."""
    process = start_stage(name, **env)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_a_deleted_store_is_filled_once_even_by_two_stages_at_once(project: Path) -> None:
    Path("mlflow.db").unlink()
    Path(".mlflow.db.tmp").write_bytes(b"left by a process that was killed while it made one")
    stages = [start_stage("track"), start_stage("track")]
    (first, *errors), (second, *more_errors) = (stage.communicate(timeout=60) for stage in stages)
    assert sorted([first, second]) == [
        "6 runs in sqlite:///mlflow.db: 0 added, 6 already there\n",
        "6 runs in sqlite:///mlflow.db: 6 added, 0 already there\n",
    ]
    assert errors == more_errors == [""]
    assert [stage.returncode for stage in stages] == [0, 0]
    assert len(runs_of("shoal")) == 6


def test_a_server_that_is_away_is_a_warning_within_seconds(project: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken but not listening
        uri = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        code, _, errors = run_stage("track", MLFLOW_TRACKING_URI=uri)
    assert time.monotonic() - started < 10
    assert code == 0
    (line,) = errors.splitlines()
    assert line.startswith("warning: not tracked: the MLflow store http://127.0.0.1:")
    assert "start the server or unset MLFLOW_TRACKING_URI" in line
    assert "secret" not in line


def _damaged(folder: Path) -> Path:
    (folder / "damaged.db").write_bytes(b"no database" * 1000)
    return folder / "damaged.db"


def _folder(folder: Path) -> Path:
    (folder / "folder.db").mkdir()
    return folder / "folder.db"


def _unwritable(folder: Path) -> Path:
    return Path("/proc/nowhere/mlflow.db")


@pytest.mark.parametrize("spoil", [_damaged, _folder, _unwritable])
def test_an_unusable_database_is_one_error_within_seconds(
    project: Path, spoil, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = spoil(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    started = time.monotonic()
    with pytest.raises(TrackingError, match=rf"{file} cannot be used .*delete it") as error:
        track()
    assert time.monotonic() - started < 10
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "uri", ["postgresql://u@127.0.0.1:1/db", "nonsense://x", "http://h:port", "http://[h"]
)
def test_an_unusable_uri_is_one_error(
    project: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"cannot be used .*MLFLOW_TRACKING_URI"):
        track()


def test_a_database_locked_by_another_process_is_one_error(project: Path) -> None:
    other = sqlite3.connect(project / "mlflow.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TrackingError, match="locked"):
        track()
    other.close()


def test_a_stage_that_keeps_the_lock_is_one_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.2)
    with store.exclusive(), pytest.raises(TrackingError, match=r"held \.cache/mlflow\.lock"):
        track()


def test_shown_hides_the_login() -> None:
    assert shown("https://me:secret@host/x") == "https://host/x"
    assert shown("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_names_of_params_and_numbers() -> None:
    sections = {
        "model": {"name": "vit", "pretrained": True, "options": {"depth": 6}},
        "train": {"epochs": 3, "penalty": {"lambda": 5.0}},
    }
    expected = {"model": "vit", "model.pretrained": "True", "model.depth": "6", "epochs": "3"}
    assert flat_params(sections) == expected | {"lambda": "5.0"}
    numbers = {"a": {"b": {"c": 1}}, "flag": True, "none": None, "text": "x", "list": [1]}
    assert flat_numbers(numbers) == {"a.b.c": 1.0, "flag": 1.0}


def epoch_entry(epoch: int) -> dict:
    return {"epoch": epoch, "loss": 1.0 / epoch, "distances": {"layer1.0": 0.25}}


CONFIGURATION = {"model": {"name": "resnet18_cifar"}, "train": {"penalty": {"lambda": 5.0}}}


def test_training_streams_its_epochs(project: Path) -> None:
    with live_training("shoal", "lacoot", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        assert runs_of("shoal-training")["lacoot"].info.status == "RUNNING"
        log(epoch_entry(2))
        log(epoch_entry(2))  # sent again: skipped
    run = runs_of("shoal-training")["lacoot"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["variant"] == "lacoot"
    assert run.data.params == {"model": "resnet18_cifar", "lambda": "5.0"}
    history = client().get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["distance.layer1.0"] == 0.25


def train_and_fail() -> None:
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        raise ZeroDivisionError


def test_a_failed_training_is_marked_and_continued_by_the_next(project: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train_and_fail()
    failed = runs_of("shoal-training")["dense"]
    assert failed.info.status == "FAILED"
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        for epoch in (1, 2):
            log(epoch_entry(epoch))
    run = runs_of("shoal-training")["dense"]
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    history = client().get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2]


def test_a_finished_or_different_training_is_not_continued(project: Path) -> None:
    for key in ("abc", "abc", "def"):
        with live_training("shoal", f"dense-{time.monotonic_ns()}", key, CONFIGURATION) as log:
            log(epoch_entry(1))
    assert len(runs_of("shoal-training")) == 3


def test_a_store_that_is_away_does_not_stop_training(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        log(epoch_entry(2))
    assert capsys.readouterr().err.count("warning: not tracked") == 1


def test_a_store_lost_in_the_middle_is_told_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_training("shoal", "dense", "abc", CONFIGURATION) as log:
        log(epoch_entry(1))
        with sqlite3.connect("mlflow.db") as database:
            database.execute("drop table latest_metrics")
        database.close()
        log(epoch_entry(2))
        log(epoch_entry(3))
    assert capsys.readouterr().err.count("warning: not tracked") == 1


def test_a_server_is_filled_and_the_ui_shows_its_runs(project: Path) -> None:
    process = start_stage("ui")
    try:
        address = process.stdout.readline().split()[2]
        assert address.startswith("http://127.0.0.1:")
        wait_until_it_answers(f"{address}/health")
        code, output, _ = run_stage("track", MLFLOW_TRACKING_URI=address)
        assert (code, output) == (0, f"6 runs in {address}: 6 added, 0 already there\n")
        run_id = runs_of("shoal")["lacoot-l1-fp32"].info.run_id
        plot = f"{address}/get-artifact?path=plots/{PLOTS[0]}&run_uuid={run_id}"
        with DIRECT.open(plot, timeout=10) as response:
            assert response.read() == PIXEL
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            DIRECT.open(url, timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"no answer from {url}"
            time.sleep(0.2)
        else:
            return


def test_the_ui_wants_a_store_first(project: Path) -> None:
    Path("mlflow.db").unlink()
    code, _, errors = run_stage("ui")
    assert code == 1
    assert "mlflow.db is missing" in errors
    assert "make repro" in errors


def test_the_ui_of_a_server_is_its_own_address(project: Path) -> None:
    code, output, _ = run_stage("ui", MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert code == 0
    assert "http://127.0.0.1:1" in output
