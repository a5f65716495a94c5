"""The same stage twice at once: the results are whole, and who gives way says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from undisturbed import FULL, STAGES, VARIANT, Undisturbed, contents, leftovers, tracked


@pytest.mark.fault("the same stage twice at once")
@pytest.mark.parametrize("stage", list(STAGES) if FULL else ["report", "bundle"])
def test_two_of_a_stage_at_once_leave_the_result_of_one(
    stage: str, base: Undisturbed, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", stage)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
    }
    command = [sys.executable, "-m", f"stages.{STAGES[stage].name}", *STAGES[stage].arguments]
    both = [
        subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in both]
    assert 0 in [code for _, code in ended], ended
    for errors, code in ended:
        assert "Traceback" not in errors
        assert code == 0 or errors.splitlines()[-1].startswith("error: "), (errors, code)
    assert contents(project, stage) == contents(base.root, stage)
    assert leftovers(project) == []
    if stage == "track":
        assert tracked(project) == [run for run in tracked(base.root) if run[0] != VARIANT]
