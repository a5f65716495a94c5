"""Stages in processes forked from one that has made the imports: a second each instead of ten.

A stage still is a process of its own that runs ``stages/<name>.py`` as ``python -m`` does, so that
it can be killed, limited and starved. Run as a script this file is the server.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from places import ROOT

KILLED = -9
READY = "ready\n"
LATE = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.client", "scipy.stats")
CALLS = Path(__file__).with_name("failing_calls.c")


@dataclass(frozen=True)
class FailingCall:
    """One of a stage's calls that open, write, flush or rename a file of the project."""

    number: int  # in their order, from 1; 0: none fails, all are listed
    error: int  # errno; 0: the stage is killed right after the call


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: exit code (negative: the signal) and what it printed."""

    code: int
    output: str
    errors: str


class StageServer:
    """The process that stages are forked from; one at a time."""

    def __init__(self, scratch: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.fails_calls = shutil.which("cc") is not None
        if self.fails_calls:
            library = scratch / "failing_calls.so"
            compile_ = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(CALLS), "-ldl"]
            subprocess.run(compile_, check=True)
            environment["LD_PRELOAD"] = str(library)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == READY
        self.folder = Path()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def size_bytes(self) -> int:
        """Return how much address space a stage has before it begins."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[0]
        return int(pages) * resource.getpagesize()

    def start(
        self,
        folder: Path,
        stage: str,
        *arguments: str,
        limits: dict[str, int] | None = None,
        failing: FailingCall | None = None,
        **environment: str,
    ) -> int:
        """Start a stage in `folder`, under limits such as ``{"AS": bytes}``; return its process."""
        self.folder = folder
        request = {
            "folder": str(folder),
            "stage": stage,
            "arguments": arguments,
            "limits": limits or {},
            "failing": None if failing is None else [failing.number, failing.error],
            "environment": environment,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> Outcome:
        """Wait for the stage that was started."""
        code = int(self.process.stdout.readline())
        logs = [self.folder.parent / f"{self.folder.name}.{name}" for name in ("out", "err")]
        return Outcome(code, *(log.read_text(encoding="utf-8") for log in logs))

    def calls(self) -> list[str]:
        """Return the calls of the stage that ran last with a `FailingCall`: "operation path"."""
        listed = Path(f"{self.folder}.calls").read_text(encoding="utf-8")
        return listed.replace(f" {self.folder}/", " ").splitlines()

    def run(self, folder: Path, stage: str, *arguments: str, **options: Any) -> Outcome:
        self.start(folder, stage, *arguments, **options)
        return self.wait()


def _preload() -> None:
    """Import what stages import, also on their way: by an export of next to nothing."""
    for package in ("models", "pipeline"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.startswith("pipeline.bundle.device"):
                importlib.import_module(module.name)
    os.environ.update(importlib.import_module("pipeline.report.tracking.client").SETTINGS)
    for module in LATE:
        importlib.import_module(module)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.nn.ReLU(), (torch.zeros(1),), dynamo=True, verbose=False, optimize=True
        )
    gc.freeze()  # so that the children's collections do not copy all of it


def _serve() -> None:
    """Answer each request with the number of the process and then with its exit code."""
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(**request)
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(
    folder: str,
    stage: str,
    arguments: Sequence[str],
    limits: dict[str, int],
    failing: tuple[int, int] | None,
    environment: dict[str, str],
) -> NoReturn:
    """Run the stage in this process and end it as Python does, without freeing all it imported."""
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, suffix in ((1, "out"), (2, "err")):
        file = os.open(f"{folder}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if failing is not None:
        listed = os.open(f"{folder}.calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        ctypes.CDLL(None).fail_call(folder.encode(), *failing, listed)
    sys.argv = [stage, *arguments]
    sys.excepthook = _end_with_traceback
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        _end(1 if isinstance(e.code, str) else e.code or 0)
    _end(0)


def _end_with_traceback(*error: Any) -> None:
    traceback.print_exception(*error)
    _end(1)


def _end(code: int) -> NoReturn:
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _preload()
    print(READY, end="", flush=True)
    _serve()
