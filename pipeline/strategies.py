"""Ways to train that end with fewer blocks, as schedules over one training.

`penalty` is LaCoOT (arXiv 2406.08933): all blocks stay, and are removed afterwards. The others
remove blocks while they train, so that training gets cheaper as it goes and the network heals:
`progressive` one by one under the penalty, `anneal` all at once after their share in the output has
faded, `remove_first` all at once and abruptly, `shallow` before training from scratch begins.
`explore` leaves out a random choice of blocks at every step and then takes out those that a network
so trained misses least. docs/results.md measures them against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

Gone = Callable[[float, float, int], int]  # (time, until, blocks to go) → how many are gone
Gate = Callable[[float, float], float]  # (time, until) → the blocks' share in their output


@dataclass(frozen=True)
class Strategy:
    """What happens to the blocks that are to go; time runs from 0 to 1 over the training."""

    gone: Gone
    gate: Gate | None = None  # None: all of it until they go
    samples: bool = False  # whether every step until then leaves out as many, chosen at random


def _none(time: float, until: float, blocks: int) -> int:
    return 0


def _at_once(time: float, until: float, blocks: int) -> int:
    return blocks if time >= until else 0


def _one_by_one(time: float, until: float, blocks: int) -> int:
    return blocks if time >= until else int(blocks * time / until)


def _fading(time: float, until: float) -> float:
    return max(0.0, 1 - time / until) if until else 0.0


STRATEGIES: dict[str, Strategy] = {
    "penalty": Strategy(_none),
    "progressive": Strategy(_one_by_one),
    "anneal": Strategy(_at_once, _fading),
    "remove_first": Strategy(_at_once),
    "shallow": Strategy(_at_once),
    "explore": Strategy(_at_once, samples=True),
}
