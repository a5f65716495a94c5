"""An MLflow server on PostgreSQL, both as real processes on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stage_process import wait_until_it_answers
from tracked import MLFLOWS_WARNINGS, client, graph_bytes, runs_of, track, write_project

from pipeline.report.tracking.registry import CHAMPION, download
from stages.track import main as track_all

pytestmark = MLFLOWS_WARNINGS

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
AS_POSTGRES = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # never as root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """A database server with an empty database; the URI of it."""
    if PROGRAMS is None:
        pytest.skip("no PostgreSQL here (Debian: postgresql)")
    # Not in pytest's folders: those are closed to the user postgres.
    made = subprocess.run(
        [*AS_POSTGRES, "mktemp", "-d", "-p", "/tmp"], capture_output=True, text=True, check=True
    )
    folder, port = Path(made.stdout.strip()), free_port()
    run = [*AS_POSTGRES, "env", "LC_ALL=C"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    control = [*run, str(PROGRAMS / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    make = [*run, str(PROGRAMS / "initdb"), "-D", str(folder / "data"), "-N", "-U", "shoal"]
    try:
        subprocess.run(
            [*make, "--auth=trust", "--encoding=UTF8"], cwd="/", check=True, capture_output=True
        )
        log = ["-l", str(folder / "log")]
        subprocess.run([*control, *log, "-o", options, "start"], cwd="/", check=True)
        try:
            yield f"postgresql+psycopg2://shoal@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], cwd="/", check=True)
    finally:
        shutil.rmtree(folder)


@contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[str]:
    """An MLflow server on that database, which keeps the artifacts; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "kept"), "--workers", "1"]
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | lean,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("postgres")
    with (
        postgres() as store,
        mlflow_server(store, folder) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        write_project()
        yield address


def test_a_project_is_mirrored_once(server: str) -> None:
    first, second = track(), track()
    assert (first.added, first.present) == (6, 0)
    assert (second.added, second.present) == (0, 6)
    assert second.store == server
    run = runs_of("shoal")["lacoot-l1-fp32"]
    assert run.data.metrics["accuracy_val_pct"] == 89.0
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")


def test_the_champion_is_registered_once_and_comes_back(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    track_all()
    track_all()
    output = capsys.readouterr()
    assert "version 1, dense-l1-fp32 (already there)" in output.out
    assert output.err == ""
    assert client().get_model_version_by_alias("shoal", CHAMPION).version == "1"
    download("shoal", Path("model"))
    assert Path("model/model.onnx").read_bytes() == graph_bytes()
    assert Path("model/engines/tensorrt_rtx.engine").read_bytes() == b"tensorrt_rtx dense 1"
