"""Memory of an engine, each in a process of its own: loaded, with activations, at its peak.

    python -m pipeline.footprint < jobs.json

In a process that has opened other engines before, an allocator serves a new one from what the
others left. So a helper process, which has imported the backends but opened nothing, forks once
for each engine.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ShoalError
from pipeline.contenders import Contender
from pipeline.engines import BACKENDS
from pipeline.engines.interface import Images
from pipeline.engines.machine import cuda_devices

ROOT = Path(__file__).parent.parent
STATUS = Path("/proc/self/status")
LIMIT_S = 600  # for one engine at all batch sizes
Footprint = dict[str, Any]


def footprints(
    engines: Sequence[Contender], shape: tuple[int, ...], batch_sizes: Sequence[int], threads: int
) -> tuple[dict[Contender, Footprint], dict[str, str]]:
    """Return for each engine what it adds to the memory of a process, in bytes.

    Args:
        engines: to open.
        shape: of one image, (c, h, w).
        batch_sizes: in ascending order.
        threads: CPU threads of each engine.

    Returns:
        Under `host`, and under `device` where there is one: `loaded_bytes` (the weights as the
        engine holds them, and its own bookkeeping), `activations_bytes` by batch size (on top,
        and kept after a run), and on the host `peak_bytes` by batch size (resident, with the
        code that was read in). And, by backend, why engines are missing.
    """
    if not STATUS.exists():
        return {}, dict.fromkeys((one.backend for one in engines), "needs Linux's /proc")
    jobs = [
        {
            "backend": one.backend,
            "engine": str(one.engine),
            "shape": shape,
            "batch_sizes": list(batch_sizes),
            "threads": threads,
        }
        for one in engines
    ]
    helper = subprocess.run(
        [sys.executable, "-m", "pipeline.footprint"],
        input=json.dumps(jobs),
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if helper.returncode != 0:
        last = (helper.stderr.strip().splitlines() or ["no message"])[-1]
        return {}, dict.fromkeys((one.backend for one in engines), last)
    answers = list(zip(engines, json.loads(helper.stdout), strict=True))
    found = {one: answer["footprint"] for one, answer in answers if "footprint" in answer}
    reasons = {one.backend: answer["error"] for one, answer in answers if "error" in answer}
    return found, reasons


def _environment() -> dict[str, str]:
    """Return this environment, for a process that finds Shoal from any folder and forks well."""
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([known] if known else [])])
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # no threads to fork


def main() -> None:
    """Read jobs from standard input and write their footprints to standard output."""
    jobs = json.load(sys.stdin)
    for name in {job["backend"] for job in jobs}:
        # Imports the package. More would start CUDA's driver, which does not live on in a fork.
        BACKENDS[name].version()
    json.dump([_in_a_fork(job) for job in jobs], sys.stdout)


def _in_a_fork(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure in a child process; return ``{footprint}``, or ``{error}`` where it fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)  # ends a process that hangs
        os.close(reading)
        with os.fdopen(writing, "w") as result:
            try:
                json.dump({"footprint": _measure(job)}, result)
            except ShoalError as e:
                json.dump({"error": str(e)}, result)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        told = result.read()
    os.waitpid(child, 0)
    answer: dict[str, Any] = json.loads(told or '{"error": "its process ended early"}')
    return answer


def _measure(job: Mapping[str, Any]) -> Footprint:
    images: Images = np.ones((max(job["batch_sizes"]), *job["shape"]), np.float32)
    before = _memory()
    engine = BACKENDS[job["backend"]].load(Path(job["engine"]), job["threads"])
    loaded = _memory()
    running = {}
    for size in job["batch_sizes"]:
        engine(images[:size]).run()
        running[str(size)] = _memory()
    host: dict[str, Any] = {
        "loaded_bytes": loaded["anonymous"] - before["anonymous"],
        "activations_bytes": _growth(running, loaded, "anonymous"),
        "peak_bytes": _growth(running, before, "peak"),
    }
    if "device" not in before or loaded["device"] == before["device"]:
        return {"host": host}
    device = {
        "loaded_bytes": loaded["device"] - before["device"],
        "activations_bytes": _growth(running, loaded, "device"),
    }
    return {"host": host, "device": device}


def _growth(
    running: Mapping[str, Mapping[str, int]], before: Mapping[str, int], kind: str
) -> dict[str, int]:
    return {size: memory[kind] - before[kind] for size, memory in running.items()}


def _memory() -> dict[str, int]:
    """Return this process's memory in bytes, and what is taken on the first CUDA device."""
    lines = dict(line.split(":") for line in STATUS.read_text(encoding="ascii").splitlines())
    kilobytes = {key: int(lines[key].split()[0]) for key in ("RssAnon", "VmHWM")}
    memory = {"anonymous": 1024 * kilobytes["RssAnon"], "peak": 1024 * kilobytes["VmHWM"]}
    if cuda_devices():
        import torch

        free, total = torch.cuda.mem_get_info()
        memory["device"] = total - free
    return memory


if __name__ == "__main__":
    main()
