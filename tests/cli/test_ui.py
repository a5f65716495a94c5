"""The MLflow UI as a real server."""

import os
import signal
from pathlib import Path

from stage_process import DIRECT, wait_until_it_answers
from tracked import PIXEL, PLOTS, run_of_the_report, run_stage, run_verb, runs_of, start_verb


def test_a_server_is_filled_and_the_ui_shows_its_runs(project: Path) -> None:
    process = start_verb("ui")
    try:
        address = process.stdout.readline().split()[2]
        assert address.startswith("http://127.0.0.1:")
        wait_until_it_answers(f"{address}/health")
        code, output, _ = run_stage("track", MLFLOW_TRACKING_URI=address)
        assert code == 0
        assert output.startswith(f"6 runs in {address}: 6 added, 0 already there\nchampion of")
        assert len(runs_of("shoal")) == 6
        run_id = run_of_the_report().info.run_id
        plot = f"{address}/get-artifact?path=report/{PLOTS[0]}&run_uuid={run_id}"
        with DIRECT.open(plot, timeout=10) as response:
            assert response.read() == PIXEL
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def test_the_ui_wants_a_store_first(project: Path) -> None:
    Path("mlflow.db").unlink()
    code, _, errors = run_verb("ui")
    assert code == 1
    assert "mlflow.db is missing" in errors
    assert "make repro" in errors


def test_the_ui_of_a_server_is_its_own_address(project: Path) -> None:
    code, output, errors = run_verb("ui", MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    assert code == 0
    assert output == "MLFLOW_TRACKING_URI names a server; its UI is at http://127.0.0.1:1\n"
    assert errors.startswith("warning: ")
