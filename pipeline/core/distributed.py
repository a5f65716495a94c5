"""Values of all processes of a data-parallel run: the distance is that of the global batch.

Started by `torchrun`, every process holds a part of the batch. Projections (k × n) are gathered,
features never; directions must be equal everywhere, which seeded generators see to. In a single
process nothing is exchanged.
"""

from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


class Share(NamedTuple):
    """Which part of every batch is a process's own: that of its rank, of so many equal ones."""

    rank: int
    of: int

    def rows(self, n: int) -> slice:
        """Return the own rows of `n`; parts follow each other and differ by one row at most."""
        return slice(*(n * bound // self.of for bound in (self.rank, self.rank + 1)))


WHOLE = Share(0, 1)


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_share() -> Share:
    """Return the part of this process, which is all of it in a single one."""
    return WHOLE if world_size() == 1 else Share(dist.get_rank(), world_size())


def is_first() -> bool:
    """Say whether this is the process that writes and decides for all."""
    return own_share().rank == 0


def from_first(value: T) -> T:
    """Return what the first process passed, in all of them; tensors in it lie on the CPU."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def gather_columns(u: Float[Tensor, "... n"]) -> Float[Tensor, "... N"]:
    """Return the columns of all processes side by side, in the order of their ranks.

    The counts may differ, the other dimensions may not. No gradient passes.
    """
    if world_size() == 1:
        return u
    counts = _counts(u.shape[-1], u.device)
    # Collectives want equal shapes: every part is filled up to the largest.
    padded = u.new_zeros(*u.shape[:-1], max(counts))
    padded[..., : u.shape[-1]] = u
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[..., :k] for part, k in zip(parts, counts, strict=True)], dim=-1)


def global_count(n: int, device: torch.device) -> int:
    """Return how many columns `gather_columns` returns where this process gives `n`."""
    return n if world_size() == 1 else sum(_counts(n, device))


def own_columns(gathered: Float[Tensor, "... N"], n: int) -> Float[Tensor, "... n"]:
    """Return the columns that this process, which has `n`, gave to `gather_columns`."""
    if world_size() == 1:
        return gathered
    start = sum(_counts(n, gathered.device)[: own_share().rank])
    return gathered[..., start : start + n]


def sum_over_processes(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes; no gradient passes."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def _counts(n: int, device: torch.device) -> list[int]:
    """Return how many columns each process has."""
    counts = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([n], device=device))
    return [int(count) for count in counts]
