"""ONNX files damaged in every way: told, or the same as ONNX Runtime makes of the damaged file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import IMPORTS
from undisturbed import FULL

FILES = 700 if FULL else 90


@pytest.mark.fault("mutated ONNX file")
def test_a_damaged_file_is_told_or_right(tmp_path: Path, record_property: Any) -> None:
    record_property("faults", FILES)
    script = Path(__file__).parent / "onnx_mutants.py"
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "0", str(FILES)],
        env=os.environ | {"PYTHONPATH": IMPORTS},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    # onnx-graphsurgeon prints on its own what it raises.
    told = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    *_, last = told
    assert ended.returncode == 0, f"died of {ended.returncode} at {last}"
    lines = [json.loads(line) for line in told]
    ends = [line for line in lines if "end" in line]
    assert len(ends) == FILES
    assert [line for line in ends if line["end"] not in ("told", "value")] == []
    assert {line["end"] for line in ends} == {"told", "value"}
    assert ended.stderr == ""
