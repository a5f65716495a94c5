import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stage_process

from pipeline.engines import BACKENDS
from pipeline.engines.machine import usable_cores
from pipeline.probe import probe

ROOT = Path(__file__).parent.parent

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


def test_probe_is_quick_because_torch_is_not_imported():
    code = "import sys, pipeline.probe as p; p.probe(); sys.exit('torch' in sys.modules)"
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
