import json
import os
import shutil
import subprocess
import sys

import pytest
import stage_process
from places import FIXED, ROOT

from models.errors import BackendError, BackendUnavailable
from pipeline.cli.doctor.backends import backends
from pipeline.cli.doctor.finding import FAILS
from pipeline.core.hardware import usable_cores
from pipeline.core.params import load_params
from pipeline.engines.backends.probe import probe
from pipeline.engines.backends.registry import BACKENDS

# The CUDA driver's own interface, as two GPUs would answer through it.
DRIVER = r"""
#include <stdio.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "Test GPU %d", device);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)8 << 30;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 + 3 * device : -1;
    return 0;
}
"""


def run_stage(folder, **environment):
    return stage_process.run_stage("probe", cwd=folder, **environment)


def test_target_holds_the_facts_that_build_and_benchmark_need():
    target = probe()
    assert set(target) == {
        *("devices", "driver", "cpu", "cpu_features", "cores", "platform", "python", "torch"),
        "backends",
    }
    assert target["cores"] == usable_cores() >= 1
    assert target["cpu"]
    assert target["backends"].keys() == BACKENDS.keys()
    assert target["backends"]["onnxruntime"]["available"]
    for backend in target["backends"].values():
        assert set(backend) == {"available", "version" if backend["available"] else "reason"}


def test_backend_without_its_package_carries_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    backend = probe()["backends"]["openvino"]
    assert not backend["available"]
    assert "pip install '.[openvino]'" in backend["reason"]


def test_stage_writes_the_same_bytes_twice(tmp_path):
    first = run_stage(tmp_path)
    assert first.returncode == 0, first.stderr
    written = (tmp_path / "artifacts/probe/target.json").read_bytes()
    run_stage(tmp_path)
    assert (tmp_path / "artifacts/probe/target.json").read_bytes() == written


def test_probe_and_build_are_quick_because_torch_is_not_imported():
    code = (
        "import sys, stages.build, pipeline.engines.backends.probe as p; p.probe();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


@pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler on Linux"
)
def test_devices_are_read_through_the_cuda_driver(tmp_path):
    (tmp_path / "driver.c").write_text(DRIVER)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"], cwd=tmp_path, check=True
    )
    done = run_stage(tmp_path, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    target = json.loads((tmp_path / "artifacts/probe/target.json").read_text())
    assert target["devices"] == [
        {"name": "Test GPU 0", "compute_capability": "8.6", "memory_bytes": 8 << 30},
        {"name": "Test GPU 1", "compute_capability": "8.9", "memory_bytes": 8 << 30},
    ]
    assert "CUDA 12.4" in target["driver"]
    assert "Test GPU 0, Test GPU 1" in done.stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise ImportError('libx.so: cannot map: Cannot allocate memory')", "Cannot allocate"),
        ("raise OSError('libx.so: wrong ELF class')", "wrong ELF class"),
        ("import no_such_part", "No module named 'no_such_part'"),
    ],
)
def test_a_library_that_is_there_and_cannot_be_loaded_is_a_failure(
    content, reason, tmp_path, monkeypatch
):
    """Not an absence: all engines would be built anew, without those of this library."""
    (tmp_path / "openvino.py").write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match=f"openvino is installed and .*{reason}") as caught:
        probe()
    assert not isinstance(caught.value, BackendUnavailable)
    shutil.copy(FIXED, tmp_path / "params.yaml")
    ended = run_stage(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "artifacts").exists()
    assert finding_of("openvino").state == FAILS


WATCH = """
import sys
def hook(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect"):
        with open({log!r}, "a") as log:
            print(event, args[1:] if event == "socket.connect" else args, sys.argv, file=log)
sys.addaudithook(hook)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["stages.probe"],
        ["pipeline", "doctor"],
        ["pipeline", "status"],
        ["dvc", "status"],
        ["stages.track"],
    ],
    ids=" ".join,
)
def test_nothing_is_looked_up_in_the_network(command, reported):
    """Name look-ups of the process and of all that it starts are written down."""
    home, log = reported / "home", reported / "look-ups"
    shutil.copy(ROOT / "dvc.yaml", reported)
    ignored = shutil.ignore_patterns("cache", "tmp")
    shutil.copytree(ROOT / ".dvc", reported / ".dvc", ignore=ignored)
    subprocess.run(["git", "init", "-q", str(reported)], check=True)
    home.mkdir()
    (home / "sitecustomize.py").write_text(WATCH.format(log=str(log)), encoding="utf-8")
    unset = ("CI", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_URI")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    subprocess.run(
        [sys.executable, "-m", *command],
        cwd=reported,
        env=kept | {"PYTHONPATH": f"{home}:{ROOT}", "HOME": str(home)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert not log.exists(), log.read_text(encoding="utf-8")
    assert not (home / "intel").exists()
    code = "import socket; socket.getaddrinfo('localhost', 1)"
    subprocess.run([sys.executable, "-c", code], env=kept | {"PYTHONPATH": str(home)}, check=True)
    assert log.exists(), "a look-up would have been seen"


def finding_of(backend):
    params = load_params(FIXED)
    wanted = params.build.model_copy(update={"backends": [backend]})
    findings = backends(params.model_copy(update={"build": wanted}))
    return next(each for each in findings if each.subject == backend)
