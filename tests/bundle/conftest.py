"""A bundle as it lies on a device, and a Python there that has what a bundle needs."""

from pathlib import Path

import pytest
from device_side import make_environment, unpack
from stage_process import run_stage
from tiny_project import write_project


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    return make_environment(folder, "numpy", "pillow", "onnxruntime")


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the bundle of its variant, in fp32."""
    root = tmp_path_factory.mktemp("project")
    write_project(root)
    done = run_stage("bundle", "dense", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def unpacked(bundled: Path, tmp_path: Path) -> Path:
    return unpack(bundled, "fp32", tmp_path)
