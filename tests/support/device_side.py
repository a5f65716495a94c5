"""A bundle as it arrives on a device, and environments to run it in."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def make_environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment in which these packages alone can be imported, by links.

    Returns its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for package in packages:
        files = metadata.files(package)
        assert files is not None
        for name in {file.parts[0] for file in files if file.parts[0] != ".."}:
            source = Path(str(metadata.distribution(package).locate_file(name)))
            if not (site / name).exists():
                (site / name).symlink_to(source)
    return folder / "bin" / "python"


def unpack(project: Path, precision: str, target: Path) -> Path:
    """Unpack the bundle of level 1; return its folder."""
    name = f"dense-l1-{precision}"
    archive = project / f"artifacts/bundle/{name}.tar.gz"
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", target], check=True)
    return target / name


def run(python: Path, script: Path, *arguments: str, **environment: str):
    """Run a script from another folder, with nothing of this process's environment."""
    return subprocess.run(
        [python, "-W", "error", script, *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_message(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Assert that a script failed with one line on stderr that holds all the parts."""
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
