"""The doctor finds what is wrong, says what to do, and fails only where the pipeline would."""

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.artifacts import write_json
from pipeline.checks.backends import backends
from pipeline.checks.data import data
from pipeline.checks.environment import disk
from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.checks.keeping import dvc, store
from pipeline.checks.leftovers import OLD_S, leftovers
from pipeline.checks.packages import packages
from pipeline.commands import DONE, FAILED
from pipeline.params import PARAMS, Params, load_params
from pipeline.progress import QUIET

ROOT = Path(__file__).parent.parent


def of(findings: Iterable[Finding], subject: str) -> Finding:
    return next(each for each in findings if each.subject == subject)


def params(**sections: dict) -> Params:
    """Return this folder's params.yaml with other values."""
    content = yaml.safe_load(PARAMS.read_text())
    for section, values in sections.items():
        content[section] |= values
    PARAMS.write_text(yaml.safe_dump(content))
    return load_params()


def test_every_line_has_a_state_and_trouble_a_remedy(
    reported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(QUIET, "")
    Path(".dvc").mkdir()
    assert main(["doctor", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        *("parameters", "environment", "dvc", "backends", "data", "mlflow", "leftovers")
    ]
    for each in (one for own in found.values() for one in own):
        assert each["state"] in {OK, WARNING, FAILS}
        assert each["remedy"] or each["state"] == OK or "not tracked" in each["told"]
    assert main(["doctor", "-q"]) == DONE
    assert "  ok" not in capsys.readouterr().out


def test_invalid_params_fail_and_the_rest_is_told(
    reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PARAMS.write_text(PARAMS.read_text().replace("rounds: 25", "rounds: many"))
    assert main(["doctor"]) == FAILED
    text = capsys.readouterr().out
    assert "fails    params.yaml: " in text
    assert "benchmark.rounds = 'many'" in " ".join(text.split())
    assert "→ edit params.yaml" in text
    assert "  ok       python: " in text
    assert text.rstrip().endswith("see `fails` (2)"), "there is no .dvc either"


def test_packages_against_their_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert of(packages(), "packages").state == WARNING
    Path("pyproject.toml").write_text('[project]\ndependencies = ["torch==1", "no-such.one>=2"]')
    here = of_installed("pytest")
    Path("requirements.lock").write_text(f"pytest=={here}\n    # via x\n")
    assert [each.state for each in packages()] == [OK]
    Path("requirements.lock").write_text(
        "pytest==0.1\nno-such-one==2\nno-such-test==1\n"
        "no-such-wheel==1 ; sys_platform == 'plan9'\n"
        f"hypothesis==0 ; python_version < '3'\nhypothesis=={of_installed('hypothesis')} ; x\n"
    )
    lacking, other, extras = packages()
    assert (lacking.state, lacking.told) == (FAILS, "missing: no-such-one")
    assert (other.state, other.told) == (
        WARNING,
        f"of another version: pytest {here} (not 0.1)",
    )
    assert (extras.state, extras.told) == (WARNING, "missing, for tests or extras: no-such-test")


def doctor_without(package: str) -> subprocess.CompletedProcess[str]:
    start = (
        f"import sys; sys.modules[{package!r}] = None; from pipeline.__main__ import main; "
        "sys.exit(main(['doctor', '--json']))"
    )
    return subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", ["pydantic", "yaml", "numpy"])
def test_a_package_that_cannot_be_imported_is_told(package: str) -> None:
    done = doctor_without(package)
    assert (done.returncode, done.stderr) == (FAILED, "")
    found = [Finding(**each) for each in json.loads(done.stdout)["environment"]]
    assert of(found, "python").state == OK
    assert of(found, package).state == FAILS
    assert of(found, package).remedy == "make setup"


def test_without_progress_bars_everything_is_looked_at() -> None:
    assert "leftovers" in json.loads(doctor_without("tqdm").stdout)


def of_installed(name: str) -> str:
    from importlib import metadata

    return metadata.version(name)


@pytest.mark.parametrize(("free", "state"), [(10**8, FAILS), (10**9, WARNING), (10**11, OK)])
def test_room_on_the_disk(free: int, state: str) -> None:
    assert disk(free).state == state


def test_a_backend_that_is_not_here_warns_unless_there_is_no_other(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # it cannot be imported, on any machine
    found = list(backends(params(build={"backends": ["onnxruntime", "tensorrt"]})))
    assert of(found, "onnxruntime").state == OK
    assert of(found, "tensorrt_rtx").state == OK, "it is not asked for"
    assert "is not installed" in of(found, "tensorrt").told
    assert of(found, "tensorrt").state == WARNING
    assert FAILS not in {each.state for each in found}
    found = list(backends(params(build={"backends": ["tensorrt"]})))
    assert of(found, "build.backends").state == FAILS


def test_data_that_is_nowhere(reported: Path, prepared: Path) -> None:
    found = list(data(params(prepare={"source": "image_folder", "path": "/no/such"})))
    assert of(found, "source").state == FAILS
    assert of(found, "prepared").state == WARNING
    Path("images").mkdir()
    found = list(data(params(prepare={"path": "images"})))
    assert of(found, "source").state == OK
    found = list(data(params(prepare={"source": "fashion_mnist", "path": None})))
    assert of(found, "source").remedy.startswith("make data")

    shutil.copytree(prepared, "artifacts/prepare")
    assert {each.state for each in data(load_params())} == {OK}
    assert "500 train, 500 validation, 500 test images" in of(data(load_params()), "prepared").told
    found = list(data(params(prepare={"image_size": 64})))
    assert "is of fashion_mnist at 32 pixels" in of(found, "prepared").told
    Path("artifacts/prepare/test_images.npy").unlink()
    assert "lacks test_images.npy" in of(data(load_params()), "prepared").told


def test_a_store_that_another_writer_locks(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checks.keeping.CONNECT_WAIT_S", 0.1)
    assert [each.state for each in store(load_params())] == [OK]
    with closing(sqlite3.connect("mlflow.db")) as writer:
        writer.execute("CREATE TABLE experiments (experiment_id, name, lifecycle_stage)")
        writer.execute("CREATE TABLE runs (run_uuid, experiment_id, status, lifecycle_stage)")
        writer.commit()
        writer.execute("BEGIN IMMEDIATE")
        Path(".cache").mkdir()
        with Path(".cache/mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there, locked, held = store(load_params())
    assert there.state == OK
    assert "mlflow.db cannot be written now: database is locked" in locked.told
    assert "another process of Shoal writes to it" in held.told
    assert [each.state for each in store(load_params())] == [OK]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert [each.state for each in store(load_params())] == [WARNING]


def test_the_state_of_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [each.state for each in dvc()] == [FAILS]
    Path(".dvc/tmp").mkdir(parents=True)
    assert [each.state for each in dvc()] == [OK, OK]
    config = "[core]\n    remote = far\n['remote \"far\"']\n    url = ../store\n"
    Path(".dvc/config").write_text(config)
    assert of(dvc(), "dvc remote").told == "../store is not there"
    Path("store").mkdir()
    assert of(dvc(), "dvc remote").state == OK
    Path(".dvc/config").write_text("[core]\n    remote = far\n")
    assert of(dvc(), "dvc remote").remedy == "dvc remote add far URL"


def test_locks_of_the_living_and_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".dvc/tmp").mkdir(parents=True)
    lock = Path(".dvc/tmp/rwlock")
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    write_json(lock, {"/a": {"write": holder}, "/b": {"read": [holder]}})
    assert f"process {os.getpid()} runs stages here" in of(dvc(), "dvc").told
    write_json(lock, {"/a": {"write": {"pid": 2**22 + 1, "cmd": "dvc repro"}}})
    assert of(dvc(), "dvc").state == OK
    lock.write_text("{")
    assert {each.subject for each in dvc()} == {"dvc cache", "dvc remote"}
    with Path(".dvc/tmp/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert of(dvc(), "dvc").told == "a dvc command runs here"


def test_leftovers_of_killed_writes_and_of_variants_that_are_gone(reported: Path) -> None:
    assert [each.state for each in leftovers(load_params())] == [OK]
    young, old = Path("metrics/.young.json.tmp"), Path("reports/.old.json.tmp")
    for path in (young, old):
        path.write_text("")
    os.utime(old, (time.time() - 2 * OLD_S,) * 2)
    (write,) = leftovers(load_params())
    assert (write.state, write.remedy) == (WARNING, f"rm -r {old}")
    old.unlink()
    Path("reports/.ended.json.tmp").symlink_to("as-if-it-vanished")
    assert [each.state for each in leftovers(load_params())] == [OK]
    write_json(Path("metrics/train/gone.json"), {})
    (variant,) = leftovers(load_params())
    assert variant.told.startswith("gone: no variant of params.yaml")
    assert variant.remedy == "rm -r metrics/train/gone.json"
