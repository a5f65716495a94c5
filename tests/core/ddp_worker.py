"""One process of tests/core/test_distributed.py, started by torchrun; writes what it computed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from trainings import fresh, settings

from models.blocks import Block
from models.errors import ShoalError
from models.units import Unit, block_units
from pipeline.core.distributed import from_first, is_first, world_size
from pipeline.data.dataset import Dataset, load
from pipeline.distances.estimators import ESTIMATORS
from pipeline.train.loop import train
from pipeline.train.parallel import require_enough_for_all
from pipeline.train.penalty import block_penalty
from pipeline.train.records import EpochLog

STEPS = 3
CPU = torch.device("cpu")


class Residual(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def run(name: str, rows: slice, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Train a few steps on the penalty alone; return the losses and the gradients and weights."""
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(6, 24), Residual(24), Residual(24)).to(device)
    units = [_unit("1"), _unit("2")]
    inputs = torch.randn(STEPS, 12, 6, dtype=torch.float32).to(device)
    model = DistributedDataParallel(network) if world_size() > 1 else network
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    estimator = ESTIMATORS[name](20)
    generator = torch.Generator(device).manual_seed(3)
    results: dict[str, torch.Tensor] = {}
    with block_penalty(network, units, estimator, generator) as penalty:
        for step, x in enumerate(inputs):
            model(x[rows])
            value = penalty()
            optimizer.zero_grad()
            value.backward()
            results[f"penalty {step}"] = value.detach()
            for key, parameter in network.named_parameters():
                results[f"{key} {step}"] = parameter.grad.clone()
            optimizer.step()
    return results


def _unit(name: str) -> Unit:
    block = Block(name, (24,), (24,), True, "")
    return Unit(**vars(block), entering=name, leaving=name)


# --- whole trainings ------------------------------------------------------------------------


class Convolutions(nn.Module):
    """A residual block without batch norm, whose statistics would be those of a part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.second(torch.relu(self.first(x)))


def plain() -> tuple[nn.Module, list[Unit]]:
    torch.manual_seed(0)
    blocks = [Convolutions(6) for _ in range(3)]
    head = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 10)]
    model = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), *blocks, *head)
    units = block_units(model, torch.zeros(2, 1, 32, 32))
    return model, [unit for unit in units if unit.removable]


Make = Callable[[], tuple[nn.Module, list[Unit]]]
LINEAR = {"name": "progressive", "remove": 2, "replacement": "linear"}

# What processes share and one alone would do as well. Batches of 35 leave a last one of 20 images:
# the parts of two processes are unequal.
SHARED: dict[str, dict[str, Any]] = {
    "penalty": {"color_jitter": 0.2},
    "progressive": {"strategy": LINEAR},
    "anneal": {"strategy": {"name": "anneal", "remove": 2}},
    "explore": {"strategy": {"name": "explore", "remove": 2, "order": "block_influence"}},
}
CUT_UP = {"fsdp": {**SHARED["penalty"], "parallel": "fsdp"}}
# Remembers directions, which rounding leads elsewhere within an epoch.
POWER = {"power": {"penalty": {"lambda": 0.5, "estimator": "power"}}}
WITH_BATCH_NORM = {
    "batch norm": {"strategy": {"name": "remove_first", "remove": 2, "until": 0.5}},
    "batch norm, fsdp": {"parallel": "fsdp"},
}


def trained(
    data: Dataset, changes: dict[str, Any], checkpoint: Path, make: Make = plain
) -> dict[str, Any]:
    """Train for two epochs; return weights, history and what was removed.

    What the checkpoint held after the first epoch is kept beside it.
    """
    model, units = make()

    def log(entry: EpochLog) -> None:
        if entry["epoch"] == 1 and is_first():
            shutil.copy(checkpoint, checkpoint.with_suffix(".first"))

    params = settings(
        **{"epochs": 2, "batch_size": 35, "learning_rate": 0.1, "images_per_epoch": 160, **changes}
    )
    result = train(model, data, params, units, device=CPU, checkpoint=checkpoint, log=log)
    return {
        "weights": {key: value.clone() for key, value in model.state_dict().items()},
        "history": result.history,
        "removed": result.removed,
    }


def continued(data: Dataset, changes: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Do the second epoch of `trained` anew, from what its first one left."""
    again = checkpoint.with_name(f"again-{checkpoint.name}")
    if is_first():
        shutil.copy(checkpoint.with_suffix(".first"), again)
    return trained(data, changes, again)


def trainings(data: Dataset, folder: Path) -> dict[str, Any]:
    results = {}
    for name, changes in {**SHARED, **CUT_UP, **POWER}.items():
        checkpoint = folder / f"{name}.pt"
        results[name] = trained(data, changes, checkpoint)
        results[f"{name}, continued"] = continued(data, changes, checkpoint)
    for name, changes in WITH_BATCH_NORM.items():
        results[name] = trained(data, changes, folder / f"{name}.pt", fresh)
    return results


if __name__ == "__main__":
    folder, backend = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group(backend)
    rank = dist.get_rank()
    device = torch.device("cuda", rank) if backend == "nccl" else CPU
    if backend == "nccl":
        torch.cuda.set_device(device)
    share = slice(0, 5) if rank == 0 else slice(5, 12)  # unequal on purpose
    results: dict[str, Any] = {name: run(name, share, device) for name in ESTIMATORS}
    results["from first"] = from_first(rank)
    try:
        require_enough_for_all({"train.batch_size": 3})
    except ShoalError as e:
        results["too few"] = str(e)
    if backend == "gloo":
        results["trainings"] = trainings(load(Path(sys.argv[3])), folder)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()
