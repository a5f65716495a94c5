"""Energy of Jetson's power rails by `tegrastats`, the tool that comes with JetPack."""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable

from pipeline.meters.interface import Unreadable

INTERVAL_MS = 20
# ``VDD_IN 5043mW/4985mW``, now and on average; before JetPack 5 ``POM_5V_IN 2075/2075``.
RAIL = re.compile(r"\b((?:VDD|VIN|POM)_\w+) (\d+)(?:mW)?/\d+(?:mW)?")


def start(command: str = "tegrastats") -> Callable[[], dict[str, float]]:
    """Sample the rails from now on; the function returned gives the joules used since then."""
    output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - until `stop`
    try:
        process = subprocess.Popen(
            [command, "--interval", str(INTERVAL_MS)], stdout=output, stderr=subprocess.DEVNULL
        )
    except OSError as e:
        output.close()
        raise Unreadable("no tegrastats; it comes with NVIDIA Jetson") from e
    began = time.perf_counter()

    def stop() -> dict[str, float]:
        seconds = time.perf_counter() - began
        process.terminate()
        process.wait()
        with output:
            output.seek(0)
            mean = mean_watts(output)
        if not mean:
            raise Unreadable(f"tegrastats showed no power rail within {seconds:.2f} s")
        return {rail: watts * seconds for rail, watts in mean.items()}

    return stop


def mean_watts(lines: Iterable[str]) -> dict[str, float]:
    """Return the mean power of every rail in the output of tegrastats."""
    samples: dict[str, list[int]] = {}
    for line in lines:
        for rail, milliwatts in RAIL.findall(line):
            samples.setdefault(rail, []).append(int(milliwatts))
    return {rail: sum(taken) / len(taken) / 1e3 for rail, taken in samples.items()}
