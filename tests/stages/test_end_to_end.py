"""The real `dvc repro` on a small part of the real data: whole, again, killed, and untracked.

The tests share one project and build on each other in the order in which they stand.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.entities import Run
from places import FIXED, ROOT
from remotes import BUCKET, outputs, s3_server

LEVELS = 6  # five removable blocks
PRECISIONS = ("fp32", "fp16", "int8")
TIMINGS = {"seconds", "images_per_s"}


class Project:
    """A clone of the working tree in which DVC runs for real."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",  # sums in one order: a run can be repeated bit for bit
            "PYTHONPATH": "",
        }

    def run(self, *command: str) -> str:
        result = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-4000:]
        return result.stdout

    def rerun(self, stage: str) -> str:
        """Run one stage for real, where DVC would rather take its result from the cache."""
        return self.run("dvc", "repro", "--force", "--single-item", stage)

    def kill_during(self, stage: str, when: Callable[[], bool]) -> None:
        """Run one stage anew and kill -9 the whole of DVC as soon as `when` holds."""
        process = subprocess.Popen(
            ["dvc", "repro", "--force", "--single-item", stage],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None, f"{stage} ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def json(self, *parts: str) -> Any:
        return json.loads((self.root / Path(*parts)).read_text(encoding="utf-8"))

    def edit_params(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def runs(self, experiment: str = "shoal") -> list[Run]:
        # MLflow keeps a store open for good; a copy shows the file as it is now.
        copy = self.root / ".cache" / f"mlflow-{time.monotonic_ns()}.db"
        shutil.copy(self.root / "mlflow.db", copy)
        client = mlflow.MlflowClient(f"sqlite:///{copy}")
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        # All but the run of the report.
        return list(
            client.search_runs([found.experiment_id], "tags.variant != ''", max_results=500)
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fashion_mnist: Path) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results = ("metrics/", "reports/", "dvc.lock")
    for name in filter(None, listing.stdout.split("\0")):
        is_input = not name.startswith(results) or name == "metrics/failed.json"
        if (ROOT / name).exists() and is_input:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    made = Project(root)
    made.run("git", "init", "--quiet")
    shutil.copy(FIXED, root / "params.yaml")
    made.edit_params(lambda params: make_quick(params, fashion_mnist))
    made.run("dvc", "repro")
    return made


def make_quick(params: dict[str, Any], images: Path) -> None:
    params["prepare"]["path"] = str(images)
    params["precision"]["precisions"] = list(PRECISIONS)
    params["benchmark"] |= {"batch_sizes": [1, 16], "rounds": 2, "repeats": 1}


def key_of(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["variant"], row["level"], row["precision"]


def proven(project: Project) -> list[tuple[str, int, str]]:
    """Return what must be reported: all, but where a network as weak as these lost to int8."""
    found = [
        (variant, check["level"], precision)
        for variant in ("dense", "lacoot")
        for precision in PRECISIONS
        for check in project.json("metrics", "verify", f"{variant}.json")["checks"]
        if check["check"] == "precision" and check["backend"] is None
        if check["precision"] == precision and check["status"] == "passed"
    ]
    assert {key[2] for key in found} == set(PRECISIONS)
    assert len([key for key in found if key[2] != "int8"]) == 2 * LEVELS * 2
    return sorted(found, key=lambda key: (key[0], key[1], PRECISIONS.index(key[2])))


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMINGS}
    return [without_timings(v) for v in value] if isinstance(value, list) else value


def test_every_level_of_every_variant_is_a_complete_row_in_every_precision(
    project: Project,
) -> None:
    rows = project.json("reports", "summary.json")["networks"]
    engines = project.json("reports", "summary.json")["engines"]
    assert [key_of(row) for row in rows] == proven(project)
    for row in rows:
        assert len(row["removed"]) == row["level"]
        assert 0 <= row["test_accuracy_pct"] <= 100
        # ONNX Runtime computes no half precision on the CPU: no engine is labelled so, none timed.
        timed = [e for e in engines if key_of(e) == key_of(row) and e["quiet_ms"] is not None]
        own = ["onnxruntime"] if row["precision"] in ("fp32", "int8") else []
        assert [engine["backend"] for engine in timed] == own
        assert all(0 < e["quiet_ms"] <= e["p50_ms"] <= e["p90_ms"] <= e["p99_ms"] for e in timed)
    for variant in ("dense", "lacoot"):
        own = [row for row in rows if row["variant"] == variant and row["precision"] == "fp32"]
        for key in ("params", "macs", "onnx_bytes"):
            sizes = [row[key] for row in own]
            assert sizes == sorted(sizes, reverse=True)
            assert len(set(sizes)) == LEVELS
        assert sum(row["chosen"] for row in own) == 1
    for name in ("accuracy_latency.png", "accuracy_removed.png", "distance_training.png"):
        assert (project.root / "reports" / name).stat().st_size > 10_000


def test_quantised_and_half_precision_graphs_keep_the_accuracy(project: Project) -> None:
    rows = project.json("reports", "summary.json")["networks"]
    exact = {(r["variant"], r["level"]): r for r in rows if r["precision"] == "fp32"}
    for row in rows:
        same = exact[row["variant"], row["level"]]
        lost = same["test_accuracy_pct"] - row["test_accuracy_pct"]
        assert lost <= {"fp32": 0.0, "fp16": 0.2, "int8": 1.0}[row["precision"]]
        share = {"fp32": 1.0, "fp16": 0.6, "int8": 0.5}[row["precision"]]
        assert row["onnx_bytes"] <= share * same["onnx_bytes"]


def test_a_bundle_of_the_chosen_level_verifies_and_classifies(project: Project) -> None:
    for variant in ("dense", "lacoot"):
        (folder,) = (
            path
            for path in (project.root / "artifacts/bundle" / variant).iterdir()
            if path.is_dir()
        )
        assert (folder.parent / f"{folder.name}.tar.gz").exists()
        verified = project.run(sys.executable, str(folder / "verify.py"))
        assert "not run" in verified or "passed" in verified
        samples = sorted(map(str, (folder / "samples").iterdir()))
        assert len(project.run(sys.executable, str(folder / "run.py"), *samples).splitlines()) >= 4


def test_the_shipped_graphs_are_the_networks_that_were_planned(project: Project) -> None:
    for variant in ("dense", "lacoot"):
        planned = project.json("metrics", "plan", f"{variant}.json")["levels"]
        collapsed = project.json("metrics", "collapse", f"{variant}.json")["levels"]
        for plan, graph in zip(planned, collapsed, strict=True):
            assert graph["removed"] == plan["removed"]
            assert graph["parity"]["max_rel"] <= 1e-4
            assert graph["val_accuracy_pct"] == pytest.approx(plan["val_accuracy_pct"], abs=0.2)


def test_tensorrt_rtx_engines_shrink_with_the_level_and_hold_their_precision(
    project: Project,
) -> None:
    metrics = project.json("metrics", "build", "lacoot.json")
    if reason := metrics["not_available"].get("tensorrt_rtx"):
        pytest.skip(reason)
    engines = [e for e in metrics["engines"] if e["backend"] == "tensorrt_rtx"]
    exact = [e for e in engines if e["precision"] == "fp32"]
    assert len(exact) == LEVELS
    weights = [engine["weight_bytes"]["float32"] for engine in exact]
    assert weights == sorted(set(weights), reverse=True)
    # Files are compared without maps: a map in the place of a block has a kernel of its own.
    levels = project.json("metrics", "heal", "lacoot.json")["levels"]
    bare = [level["replacement"] == "identity" for level in levels]
    sizes = [engine["bytes"] for engine, alone in zip(exact, bare, strict=True) if alone]
    assert sizes == sorted(sizes, reverse=True)
    for level in range(LEVELS):
        held = {e["precision"]: e["weight_bytes"] for e in engines if e["level"] == level}
        whole = sum(held["fp32"].values())
        assert 0.9 < 2 * held["fp16"]["float16"] / whole <= 1  # some may have stayed in float32
        assert 0.9 < 4 * held["int8"]["int8"] / whole <= 1


def test_mlflow_holds_a_run_per_row_with_its_numbers(project: Project) -> None:
    summary = project.json("reports", "summary.json")
    keys = ("variant", "level", "precision")
    runs = {tuple(r.data.params[key] for key in keys): r for r in project.runs()}
    assert len(runs) == len(project.runs()) == len(proven(project))
    for row in summary["networks"]:
        run = runs[tuple(str(row[key]) for key in keys)]
        engines = {e["backend"]: e for e in summary["engines"] if key_of(e) == key_of(row)}
        accuracy = engines.get(run.data.params["backend"], {}).get("test_accuracy_pct")
        shown = row["test_accuracy_pct"] if accuracy is None else accuracy
        assert run.data.metrics["accuracy_test_pct"] == round(shown, 2)
        assert run.data.metrics["macs"] == row["macs"]
        medians = [e["quiet_ms"] for e in engines.values() if e["quiet_ms"] is not None]
        assert run.data.metrics.get("latency_ms") == min(medians, default=None)
    streamed = project.runs("shoal-training")
    assert len(streamed) == 2
    assert all(run.info.status == "FINISHED" for run in streamed)


def test_nothing_changed_runs_no_stage_and_adds_no_run(project: Project) -> None:
    started = time.monotonic()
    output = project.run("dvc", "repro")
    assert time.monotonic() - started < 60  # 5 s on a quiet machine
    assert stages_run(output) == ["sources", "probe", "track"]
    assert f"0 added, {len(proven(project))} already there" in output


def committed(project: Project) -> None:
    project.run("git", "add", "--all")
    author = ("-c", "user.name=Shoal", "-c", "user.email=shoal@localhost")
    project.run("git", *author, "commit", "--quiet", "--message", "A run")


def cloned(project: Project, target: Path) -> Project:
    """Return what `git clone` gives a colleague: no cache, no artifacts, no MLflow store."""
    project.run("git", "clone", "--quiet", str(project.root), str(target))
    clone = Project(target)
    clone.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:1"
    return clone


def test_a_clone_runs_nothing_that_a_remote_folder_has(project: Project, tmp_path: Path) -> None:
    """All but what asks this machine, and what fills a store that is not there yet."""
    project.run("dvc", "remote", "add", "--default", "folder", str(tmp_path / "remote"))
    committed(project)
    project.run("dvc", "push", "--run-cache")
    clone = cloned(project, tmp_path / "clone")
    output = clone.run("dvc", "repro", "--pull")
    assert stages_run(output) == ["sources", "probe", "track"]
    assert outputs(clone.root) == outputs(project.root)
    assert clone.run("git", "status", "--porcelain") == ""


def test_a_clone_trains_nothing_that_an_s3_remote_has(project: Project, tmp_path: Path) -> None:
    trainings = ("train@dense", "train@lacoot")
    with s3_server(tmp_path) as address:

        def give_credentials(to: Project) -> None:
            for key in ("access_key_id", "secret_access_key"):
                to.run("dvc", "remote", "modify", "--local", "s3", key, "testing")

        project.run("dvc", "remote", "add", "--default", "--force", "s3", f"s3://{BUCKET}/cache")
        project.run("dvc", "remote", "modify", "s3", "endpointurl", address)
        project.run("dvc", "remote", "modify", "s3", "region", "us-east-1")
        committed(project)
        give_credentials(project)
        project.run("dvc", "push", "--run-cache", "prepare", *trainings)
        clone = cloned(project, tmp_path / "clone")
        give_credentials(clone)
        assert stages_run(clone.run("dvc", "repro", "--pull", *trainings)) == ["sources"]
    there = outputs(clone.root)
    assert {Path(file).parts[0] for file in there} == {"prepare", "train"}
    assert there.items() <= outputs(project.root).items()


def test_a_deleted_store_is_filled_again(project: Project) -> None:
    (project.root / "mlflow.db").unlink()
    project.run(sys.executable, "-m", "stages.track")
    assert len(project.runs()) == len(proven(project))


def test_training_killed_in_the_middle_ends_with_the_same_metrics(project: Project) -> None:
    before = project.json("metrics", "train", "lacoot.json")
    weights = (project.root / "artifacts/train/lacoot/weights.safetensors").read_bytes()
    checkpoints = project.root / ".cache" / "checkpoints"
    project.kill_during("train@lacoot", lambda: any(checkpoints.glob("*/state.pt")))
    assert not (project.root / "artifacts/train/lacoot").exists()  # nothing half-written
    output = project.rerun("train@lacoot")
    assert "lacoot: continuing an interrupted training" in output
    after = project.json("metrics", "train", "lacoot.json")
    assert without_timings(after) == without_timings(before)
    assert (project.root / "artifacts/train/lacoot/weights.safetensors").read_bytes() == weights
    assert not any(checkpoints.glob("*/state.pt"))


def test_collapse_killed_in_the_middle_ends_with_the_same_metrics(project: Project) -> None:
    before = project.json("metrics", "collapse", "dense.json")
    folder = project.root / "artifacts" / "collapse"
    project.kill_during("collapse@dense", lambda: any(folder.glob(".dense.*/level_1.onnx")))
    assert not (project.root / "artifacts/collapse/dense").exists()
    project.rerun("collapse@dense")
    assert project.json("metrics", "collapse", "dense.json") == before
    assert not any(folder.glob(".dense.*"))


def test_a_changed_variant_trains_alone_and_adds_its_runs(project: Project) -> None:
    project.edit_params(
        lambda params: params["variants"]["lacoot"]["train"]["penalty"].update({"lambda": 4.0})
    )
    before = len(project.runs())
    output = project.run("dvc", "repro")
    assert "Running stage 'train@lacoot'" in output
    assert "Running stage 'train@dense'" not in output
    rows = project.json("reports", "summary.json")["networks"]
    assert len(project.runs()) == before + len(rows), "all were timed again"


def test_a_sweep_reports_the_variant_that_fails_and_the_others_stay(project: Project) -> None:
    rows = project.json("reports", "summary.json")["networks"]
    project.edit_params(
        lambda params: params["variants"].update({"hot": {"train": {"learning_rate": 1.0e6}}})
    )
    sweep = [sys.executable, "-m", "pipeline", "sweep", "-j", "2"]
    result = subprocess.run(
        sweep,
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "2 of 3 variants are up to date" in result.stdout
    summary = project.json("reports", "summary.json")
    assert summary["networks"] == rows
    assert summary["failures"] == project.json("metrics", "failed.json")
    failure = summary["failures"]["hot"]
    assert failure["stage"] == "train"
    assert "lower learning_rate (now 1000000.0)" in failure["reason"]
    assert f"| hot | train | {failure['reason']} |" in (
        project.root / "reports" / "summary.md"
    ).read_text(encoding="utf-8")
    project.edit_params(lambda params: params["variants"].pop("hot"))
    project.run("dvc", "repro", "--single-item", "report")
    assert project.json("reports", "summary.json")["failures"] == {}


def assert_one_clear_message(project: Project, message: str, *command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_truncated_onnx_stops_collapse_and_leaves_the_last_result(project: Project) -> None:
    source = project.root / "artifacts/export/dense/model.onnx"
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    assert_one_clear_message(project, "is not a valid ONNX model", "stages.collapse", "dense")
    source.write_bytes(whole)
    kept = sorted(path.name for path in (project.root / "artifacts/collapse/dense").iterdir())
    assert kept == [f"level_{level}.onnx" for level in range(LEVELS)]


def test_an_unknown_block_in_a_plan_stops_collapse(project: Project) -> None:
    path = project.root / "metrics/heal/dense.json"
    plan = path.read_text(encoding="utf-8")
    path.write_text(plan.replace("layer4.1", "layer4.7"), encoding="utf-8")
    assert_one_clear_message(project, "no block 'layer4.7'", "stages.collapse", "dense")
    path.write_text(plan, encoding="utf-8")


def test_damaged_weights_stop_score(project: Project) -> None:
    weights = project.root / "artifacts/train/dense/weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert_one_clear_message(project, "train it again", "stages.score", "dense")
    weights.write_bytes(whole)


def test_a_backend_whose_package_is_missing_is_named_with_its_extra(
    project: Project, tmp_path: Path
) -> None:
    hidden = "raise ModuleNotFoundError('hidden', name='openvino')"
    (tmp_path / "openvino.py").write_text(hidden, encoding="utf-8")
    project.environment["PYTHONPATH"] = str(tmp_path)
    project.edit_params(lambda params: params["build"].update({"backends": ["openvino"]}))
    message = "openvino is not installed (hidden); pip install '.[openvino]'"
    assert_one_clear_message(project, message, "stages.build", "dense")
