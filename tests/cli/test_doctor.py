"""The doctor finds what is wrong, says what to do, and fails only where the pipeline would."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from places import FIXED, ROOT

from pipeline.__main__ import main
from pipeline.cli.doctor.backends import backends
from pipeline.cli.doctor.data import data
from pipeline.cli.doctor.environment import disk, environment
from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding
from pipeline.cli.doctor.packages import packages
from pipeline.cli.doctor.store import store
from pipeline.cli.dvc import dvc_environment
from pipeline.cli.exit_codes import DONE, FAILED
from pipeline.core.params import PARAMS, Params, load_params
from pipeline.core.progress import QUIET


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
    Path(".git").mkdir()
    assert main(["doctor", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["parameters", "environment", "backends", "data", "mlflow"]
    for each in (one for own in found.values() for one in own):
        assert each["state"] in {OK, WARNING, FAILS}
        assert each["remedy"] or each["state"] == OK or "not tracked" in each["found"]
    assert main(["doctor", "-q"]) == DONE
    assert "  ok" not in capsys.readouterr().out


def test_invalid_params_fail_and_the_rest_is_reported(
    reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PARAMS.write_text(PARAMS.read_text().replace("rounds: 25", "rounds: many"))
    assert main(["doctor"]) == FAILED
    text = capsys.readouterr().out
    assert "fails    params.yaml: " in text
    assert "benchmark.rounds = 'many'" in " ".join(text.split())
    assert "→ edit params.yaml" in text
    assert "  ok       python: " in text
    assert text.rstrip().endswith("see `fails` (3)"), "there is no .dvc either"


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
        "hypothesis==0 ; python_version < '3'\n"
        f"hypothesis=={of_installed('hypothesis')} ; python_version > '3'\n"
    )
    lacking, other, extras = packages()
    assert (lacking.state, lacking.found) == (FAILS, "missing: no-such-one")
    assert (other.state, other.found) == (
        WARNING,
        f"of another version: pytest {here} (not 0.1)",
    )
    assert (extras.state, extras.found) == (WARNING, "missing, for tests or extras: no-such-test")


def doctor_without(package: str) -> subprocess.CompletedProcess[str]:
    start = (
        f"import sys; sys.modules[{package!r}] = None; from pipeline.__main__ import main; "
        "sys.exit(main(['doctor', '--json']))"
    )
    return subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", ["pydantic", "yaml", "numpy"])
def test_a_package_that_cannot_be_imported_is_reported(package: str) -> None:
    done = doctor_without(package)
    assert (done.returncode, done.stderr) == (FAILED, "")
    found = [Finding(**each) for each in json.loads(done.stdout)["environment"]]
    assert of(found, "python").state == OK
    assert of(found, package).state == FAILS
    assert of(found, package).remedy == "make setup"


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
    assert "is not installed" in of(found, "tensorrt").found
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
    assert "500 train, 500 validation, 500 test images" in of(data(load_params()), "prepared").found
    found = list(data(params(prepare={"image_size": 64})))
    assert "is of fashion_mnist at 32 pixels" in of(found, "prepared").found
    Path("artifacts/prepare/test_images.npy").unlink()
    assert "lacks test_images.npy" in of(data(load_params()), "prepared").found


def test_a_store_that_another_writer_locks(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.doctor.store.CONNECT_WAIT_S", 0.1)
    assert [each.state for each in store(load_params())] == [OK]
    with closing(sqlite3.connect("mlflow.db")) as writer:
        writer.execute("CREATE TABLE experiments (experiment_id, name, lifecycle_stage)")
        writer.execute("CREATE TABLE runs (run_uuid, experiment_id, status, lifecycle_stage)")
        writer.commit()
        writer.execute("BEGIN IMMEDIATE")
        there, locked = store(load_params())
    assert there.state == OK
    assert "mlflow.db cannot be written now: database is locked" in locked.found
    assert [each.state for each in store(load_params())] == [OK]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert [each.state for each in store(load_params())] == [WARNING]


def test_without_a_checkout_nothing_runs_unless_dvc_knows(reported: Path) -> None:
    (reported / ".dvc").mkdir()
    assert of(environment(), "git").state == FAILS
    Path(".dvc/config").write_text("[core]\n    no_scm = True\n", encoding="utf-8")
    assert of(environment(), "git").state == WARNING
    Path(".git").mkdir()
    assert of(environment(), "git").state == OK


def test_a_user_without_a_name_is_found(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    found = of(environment(), "user")
    assert (found.state, found.remedy[:12]) == (FAILS, "export USER=")
    monkeypatch.setenv("USER", dvc_environment()["USER"])
    assert of(environment(), "user").state == OK


def test_an_environment_that_was_moved_is_found(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".dvc").mkdir()
    monkeypatch.setattr(sys, "executable", str(reported / "python"))
    Path("dvc").write_text("#!/moved/.venv/bin/python\n", encoding="utf-8")
    found = of(environment(), "dvc")
    assert (found.state, "/moved/.venv/bin/python, which is not there" in found.found) == (
        WARNING,
        True,
    )
    Path("dvc").write_text("#!/bin/sh\n", encoding="utf-8")
    assert of(environment(), "dvc").state == OK


def test_a_home_that_cannot_be_written_is_found(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(reported / "absent"))
    assert of(environment(), "home").state == WARNING


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host/path", "https://…@host/path"),
        ("s3://key:a@b@host/x", "s3://…@host/x"),
        ("https://host/p?token=secret&size=1", "https://host/p?token=…&size=…"),
        ("https://host/path is away", "https://host/path is away"),
    ],
)
def test_what_the_doctor_prints_holds_no_secret(
    address: str,
    shown: str,
    reported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [Finding("remote", WARNING, f"at {address}", f"look at {address}")]
    monkeypatch.setattr("pipeline.cli.doctor.command.examine", lambda: {"data": found})
    main(["doctor", "--json"])
    (each,) = json.loads(capsys.readouterr().out)["data"]
    assert (each["found"], each["remedy"]) == (f"at {shown}", f"look at {shown}")


def test_a_shell_without_the_environment_finds_it_or_is_told(tmp_path: Path) -> None:
    """As `dvc repro` runs stages there: by whatever Python is called python."""
    for folder in ("models", "pipeline", "stages"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    foreign = [str(Path(sys.base_prefix, "bin", "python3")), "-m", "stages.sources"]
    options = {
        "cwd": tmp_path,
        "env": {"PATH": os.environ["PATH"]},
        "capture_output": True,
        "text": True,
    }
    told = subprocess.run(foreign, check=False, timeout=60, **options)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "lacks Shoal's packages; make setup" in told.stderr
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copy(FIXED, tmp_path / "params.yaml")
    found = subprocess.run(foreign, check=False, timeout=60, **options)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "metrics/sources/prepare.json").exists()


def test_a_checkout_has_the_same_bytes_everywhere() -> None:
    names = [*ROOT.glob("scripts/*.sh")]
    command = ["git", "check-attr", "eol", "text", "--", *map(str, names), "docs/report.png"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.count("eol: lf") == len(names) + 1
    assert "docs/report.png: text: unset" in told
