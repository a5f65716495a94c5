"""An S3-compatible server on loopback, and clones of a project that have an empty DVC cache."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.hashing import file_sha256
from pipeline.core.artifacts import ARTIFACTS

BUCKET = "shoal"
OF_THE_MACHINE = {"probe", "yardstick"}  # not in the cache: what this machine is


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Yield the address of a server with an empty bucket `BUCKET`, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("moto_server"))
    with (
        (folder / "moto.log").open("w") as log,
        subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        ) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            _make_bucket(f"{address}/{BUCKET}")
            yield address
        finally:
            server.terminate()


def _make_bucket(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10):
                return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def outputs(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that the stages of a project left in the cache."""
    folder = root / ARTIFACTS
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        str(path): file_sha256(folder / path)
        for path in files
        if path.parts[0] not in OF_THE_MACHINE
    }
