"""Memory of an engine: loaded, with activations, at its peak.

    python -m pipeline.benchmark.memory '[["dense", 0, "fp32", "onnxruntime"], …]'

Each is measured in a process of its own: in one that has opened other engines before, an allocator
serves a new one from what the others left.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil

from pipeline.benchmark.proven_engines import ProvenEngine
from pipeline.benchmark.records import EngineMemory
from pipeline.core.arrays import Images
from pipeline.core.artifacts import SOURCE
from pipeline.core.exits import one_line_errors
from pipeline.core.hardware import cuda_devices
from pipeline.core.progress import progress
from pipeline.engines.backends.registry import BACKENDS

LIMIT_S = 600  # for one engine at all batch sizes


def memory_of_engines(
    engines: Sequence[ProvenEngine],
    shape: tuple[int, ...],
    batch_sizes: Sequence[int],
    threads: int,
) -> tuple[list[EngineMemory], dict[str, str]]:
    """Return what each engine adds to the memory of a process, and why backends are missing.

    Args:
        engines: to open.
        shape: of one image, (c, h, w).
        batch_sizes: in ascending order.
        threads: CPU threads of each engine.
    """
    if not psutil.LINUX:
        return [], dict.fromkeys((one.backend for one in engines), "needs Linux")
    found: list[EngineMemory] = []
    reasons: dict[str, str] = {}
    for one in progress(engines, "memory", unit="engine"):
        job = [one.key, str(one.engine.resolve()), shape, batch_sizes, threads]
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(job)],
            cwd=SOURCE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            found += [EngineMemory(**record) for record in json.loads(done.stdout)]
        else:
            last = (done.stderr.splitlines() or [f"its process ended with {done.returncode}"])[-1]
            reasons[one.backend] = last.removeprefix("error: ")
    return found, reasons


def measure(
    key: tuple[str, int, str, str],
    engine: Path,
    shape: tuple[int, ...],
    batch_sizes: Sequence[int],
    threads: int,
) -> list[EngineMemory]:
    """Open an engine in this process, run it, and return what that added to its memory."""
    backend = BACKENDS[key[-1]]
    backend.version()  # imports the package, which is no memory of the engine
    images: Images = np.ones((max(batch_sizes), *shape), np.float32)
    before, peak_before = _memory(), _peak_bytes()
    opened = backend.load(engine, threads)
    loaded = _memory()
    found = []
    for size in batch_sizes:
        opened(images[:size]).run()
        running, peak_bytes = _memory(), _peak_bytes()
        found += [
            EngineMemory(
                *key,
                place,
                size,
                loaded_bytes=loaded[place] - before[place],
                activations_bytes=running[place] - loaded[place],
                peak_bytes=peak_bytes - peak_before if place == "host" else None,
            )
            for place in before
            if place == "host" or loaded[place] != before[place]
        ]
    return found


def _memory() -> dict[str, int]:
    """Return the bytes that the first CUDA device has taken and that this process holds alone."""
    memory = {}
    if cuda_devices():
        import torch

        free, total = torch.cuda.mem_get_info()
        memory["device"] = total - free
    process = psutil.Process().memory_info()
    return memory | {"host": process.rss - process.shared}


def _peak_bytes() -> int:
    # `getrusage` would begin with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    signal.alarm(LIMIT_S)  # ends a process that hangs
    key, engine, *rest = json.loads(sys.argv[1])
    with one_line_errors():
        json.dump([asdict(one) for one in measure(key, Path(engine), *rest)], sys.stdout)
