"""Time the distances and the penalty against POT and against training without a penalty.

    python -m benchmarks.msw

Everything is timed side by side in one process, in alternating rounds; figures are medians. The
result goes to docs/msw.md. Freed memory is kept by the process for all sides alike (glibc's
mallopt): else the mapping of fresh 32 MiB gradients, which all of them need, hides the rest. The
table is given for glibc's own behaviour, too.
"""

import argparse
import ctypes
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Generator
from torch.nn.functional import cross_entropy

from models import zoo
from models.units import block_units
from pipeline.core.artifacts import replace_file
from pipeline.core.devices import pick_device, pick_precision
from pipeline.distances.estimators import ESTIMATORS, Estimator
from pipeline.train.penalty import block_penalty

TARGET = Path("docs/msw.md")
DIMENSIONS = (65536, 16384, 8192, 4096, 2048)
ROWS, PROJECTIONS = 128, 50
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def main() -> None:
    """Measure and write the page; `--part` runs one measurement and prints its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["distances", "distances-default", "training", "memory"])
    parser.add_argument("--estimator", default="none", help="of the memory measurement")
    arguments = parser.parse_args()
    if arguments.part is None:
        with replace_file(TARGET) as temporary:
            temporary.write_text(page(), encoding="utf-8")
        print(TARGET.read_text(encoding="utf-8"))
    elif arguments.part == "training":
        print(training_table())
    elif arguments.part == "memory":
        print(peak_memory_mb(arguments.estimator))
    else:
        if arguments.part == "distances":
            keep_freed_memory()
        print(distance_table())


def page() -> str:
    """Return docs/msw.md; every part is measured in a process of its own."""
    memory = {name: float(_part("memory", name)) for name in ("none", "random", "power")}
    ratios = ", ".join(
        f"{memory[name] / memory['none']:.3f}× with `{name}`" for name in ("random", "power")
    )
    return f"""# The cost of the distance

Written by `python -m benchmarks.msw` on {_hardware()}.

## Distance and gradient

Median ms of forward and backward, n = {ROWS}, L = {PROJECTIONS}, float32, in alternating rounds.
`floor` reads x and y once and writes both gradients, with no arithmetic.

{_part("distances")}

The same with glibc's default allocator, where the pages of both gradients are mapped anew at every
call (at d = 65536, 64 MiB):

{_part("distances-default")}

## Training

CIFAR ResNet-18 of the LaCoOT authors at full width, batch 128, five removable blocks, one step of
SGD; the ratio is the median of the ratios of neighbouring steps.

{_part("training")}

Peak resident memory of a training process: {memory["none"]:.0f} MB without a penalty; {ratios}.
"""


def distance_table() -> str:
    """Return a Markdown table of median times per dimension and their totals."""
    totals: dict[str, float] = {}
    lines = []
    for d in DIMENSIONS:
        medians = alternating_medians(distance_contestants(d), rounds=4, repeats=6)
        for name, value in medians.items():
            totals[name] = totals.get(name, 0.0) + value
        lines.append(_row(str(d), medians))
    names = list(totals)
    ratio = {name: totals["POT"] / total for name, total in totals.items()}
    head = ["| d | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    speedup = "| POT / it | " + " | ".join(f"**{ratio[name]:.2f}×**" for name in names) + " |"
    return "\n".join([*head, *lines, _row("total", totals), speedup])


def distance_contestants(d: int) -> dict[str, Callable[[], object]]:
    """Return what is timed at one dimension, by name."""
    import ot

    generator = Generator().manual_seed(0)
    x, y = (torch.randn(ROWS, d, generator=generator).requires_grad_() for _ in range(2))

    def pot() -> object:
        value = ot.sliced.max_sliced_wasserstein_distance(x, y, n_projections=PROJECTIONS)
        return torch.autograd.grad(value, [x, y])

    def estimate(estimator: Estimator) -> object:
        return torch.autograd.grad(estimator({"block": (x, y)}, generator)[0], [x, y])

    def floor() -> object:
        read = x.detach().sum(), y.detach().sum()
        return read, torch.full_like(x, 1.0), torch.full_like(y, 1.0)

    random, power = (ESTIMATORS[name](PROJECTIONS) for name in ("random", "power"))
    return {
        "POT": pot,
        "random": lambda: estimate(random),
        "power": lambda: estimate(power),
        "floor": floor,
    }


def training_table() -> str:
    """Return a Markdown table of step times with and without the penalty."""
    step, estimators = training_step()
    times: dict[str, list[float]] = {name: [] for name in estimators}
    for round_ in range(32):
        for name, estimator in estimators.items():
            seconds = _seconds(partial(step, estimator))
            if round_ >= 2:
                times[name].append(seconds)
    lines = ["| penalty | step, ms | ratio |", "| --- | --- | --- |"]
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["none"], strict=True)]
        lines.append(f"| {name} | {1e3 * _median(own):.0f} | {_median(ratios):.3f} |")
    return "\n".join(lines)


def training_step() -> tuple[Callable[[Estimator | None], None], dict[str, Estimator | None]]:
    """Return a function that takes one step, and the estimators to take it with."""
    device = pick_device()
    torch.manual_seed(0)
    model = zoo.create("resnet18_cifar", 10, in_chans=3)
    units = [u for u in block_units(model, torch.zeros(2, 3, 32, 32)) if u.removable]
    model.to(device).to(memory_format=torch.channels_last).train()
    images = torch.randn(ROWS, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (ROWS,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    generator = Generator(device).manual_seed(0)
    dtype = pick_precision("auto", device)

    def step(estimator: Estimator | None) -> None:
        measured = estimator and block_penalty(model, units, estimator, generator)
        with measured or nullcontext() as penalty:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(images)
            loss = cross_entropy(logits.float(), labels)
            if penalty:
                loss = loss + 3 * penalty()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    estimators = {name: ESTIMATORS[name](PROJECTIONS) for name in ("random", "power")}
    return step, {"none": None, **estimators}


def peak_memory_mb(estimator: str) -> float:
    """Return the largest resident memory of this process after some training steps."""
    step, estimators = training_step()
    for _ in range(5):
        step(estimators[estimator])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alternating_medians(
    contestants: dict[str, Callable[[], object]], *, rounds: int, repeats: int
) -> dict[str, float]:
    """Return the median ms of each; every round times each `repeats` times after two warm-ups."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            run(), run()
            times[name] += [1e3 * _seconds(run) for _ in range(repeats)]
    return {name: _median(own) for name, own in times.items()}


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the system; elsewhere, nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _part(name: str, estimator: str = "none") -> str:
    command = [sys.executable, "-m", "benchmarks.msw", "--part", name, "--estimator", estimator]
    print(f"measuring {name} {estimator}", flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _row(label: str, values: dict[str, float]) -> str:
    return f"| {label} | " + " | ".join(f"{value:.2f}" for value in values.values()) + " |"


def _hardware() -> str:
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name()
    return (
        f"{name}, {torch.get_num_threads()} threads, {pick_precision('auto', device)} training, "
        f"torch {torch.__version__}, POT {version('pot')}"
    )


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
