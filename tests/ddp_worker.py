"""One process of tests/test_distributed.py, started by torchrun; writes what it computed."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.blocks import Block
from models.units import Unit
from pipeline.distributed import world_size
from pipeline.estimators import ESTIMATORS
from pipeline.regularizer import block_penalty

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


if __name__ == "__main__":
    folder, backend = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group(backend)
    rank = dist.get_rank()
    device = torch.device("cuda", rank) if backend == "nccl" else CPU
    if backend == "nccl":
        torch.cuda.set_device(device)
    share = slice(0, 5) if rank == 0 else slice(5, 12)  # unequal on purpose
    torch.save({name: run(name, share, device) for name in ESTIMATORS}, folder / f"{rank}.pt")
    dist.destroy_process_group()
