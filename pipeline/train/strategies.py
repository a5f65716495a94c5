"""The strategies: which blocks are removed from a network while it trains, and when.

Time runs from 0 to 1 over the training; by the time `until` all blocks to remove are removed.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.errors import BlockError, near_matches
from models.hooks import paired
from models.replacement.modules import ChannelMap, blank_maps, maps_in
from models.surgery import bypassed, remove_blocks
from models.units import Unit
from pipeline.core.params import LevelOfPlan, Strategy
from pipeline.train.calibration import Calibration


class Removal:
    """All blocks are removed in one step, by default before the first. The base of all strategies.

    Args:
        model: the network in training; blocks are removed from it in place.
        units: its removable units.
        wanted: which of them, how many, by which criterion and until when.
        calibration: of the network.

    Raises:
        BlockError: more or other blocks are wanted than there are.
    """

    default_until: ClassVar[float] = 0.0
    auto_order: ClassVar[str] = "block_influence"
    samples: ClassVar[bool] = False  # whether steps bypass blocks until some are removed

    def __init__(
        self, model: nn.Module, units: Sequence[Unit], wanted: Strategy, calibration: Calibration
    ) -> None:
        self.model, self.units, self.calibration = model, units, calibration
        self.replacement = wanted.replacement
        self.until = self.default_until if wanted.until is None else wanted.until
        self.criterion = self.auto_order if wanted.order == "auto" else wanted.order
        self.names, self.count = _wanted(wanted.remove, [unit.name for unit in units])
        self.chosen: list[str] = []  # ahead of their removal
        self.removed: list[str] = []  # in that order
        self.bypassed: list[str] = []  # in this step alone

    @property
    def maps(self) -> dict[str, ChannelMap]:
        """Return the maps that replace removed blocks, in the order of removal."""
        return maps_in(self.model, self.removed)

    @property
    def varies(self) -> bool:
        """Return whether the parameters that get a gradient change from step to step."""
        return self.samples and not self.removed

    def due(self, time: float) -> int:
        """Return how many blocks are to be removed by `time`."""
        return self.count if time >= self.until else 0

    def before_epoch(self, choice: random.Random) -> None:
        """Prepare the network for an epoch; `choice` makes the random choices of its steps."""

    def before_step(self, time: float) -> list[str]:
        """Remove the blocks that are due, and return their names.

        The least important are first, as the network is now. Maps that replace them are new
        parameters of the network.
        """
        due = self.due(time) - len(self.removed)
        if due <= 0:
            return []
        names = (self.chosen or self.least_important())[:due]
        identity = self.replacement == "identity"
        maps = {} if identity else self.calibration.fitted(names, self.replacement)
        remove_blocks(self.model, names, maps)
        self.chosen = self.chosen[due:]
        self.removed += names
        return names

    def after_step(self) -> None:
        """Undo what was for one step only."""

    def after_epoch(self) -> None:
        """Undo what was for one epoch and its validation only."""

    def candidates(self) -> list[Unit]:
        """Return the units that are still in the network and may be removed."""
        present = set(self.names) - set(self.removed)
        return [unit for unit in self.units if unit.name in present]

    def least_important(self) -> list[str]:
        """Return the names of the candidates, the least important first."""
        together = self.count - len(self.removed)
        return self.calibration.ranked(self.candidates(), self.criterion, together=together)

    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run needs."""
        axes = {name: replacement.axis for name, replacement in self.maps.items()}
        return {"chosen": self.chosen, "removed": self.removed, "axes": axes}

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned; the maps have the form of those in `weights`.

        The network's weights are loaded afterwards.
        """
        self.chosen, self.removed = list(state["chosen"]), list(state["removed"])
        remove_blocks(self.model, self.removed, blank_maps(state["axes"], weights))


class KeepAll(Removal):
    """No block is removed: the penalty is all."""

    def due(self, time: float) -> int:
        """Return none."""
        return 0


class Progressive(Removal):
    """Blocks are removed one by one, at even distances in time."""

    default_until = 0.4

    def due(self, time: float) -> int:
        """Return the share of the blocks that the time is of its end."""
        return self.count if time >= self.until else int(self.count * time / self.until)


class Anneal(Removal):
    """A block f gives (1 − g)·x + g·f(x); the gate weight g falls to 0, then f is removed."""

    default_until = 0.4

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.gate_weight = 1.0
        self._gates = ExitStack()

    def before_epoch(self, choice: random.Random) -> None:
        """Choose the blocks, once, and give them gates."""
        if not self.removed and not self.chosen:
            self.chosen = self.least_important()[: self.count]
        self._gates.enter_context(gated(self.model, self.chosen, lambda: self.gate_weight))

    def before_step(self, time: float) -> list[str]:
        """Set the gate weight; remove the blocks once it is 0."""
        self.gate_weight = max(0.0, 1 - time / self.until) if self.until else 0.0
        return super().before_step(time)

    def after_epoch(self) -> None:
        """Remove the gates."""
        self._gates.close()


class Explore(Removal):
    """Every step bypasses as many blocks as are to be removed, chosen at random."""

    default_until = 0.4
    auto_order = "recoverability"
    samples = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._step = ExitStack()

    def before_epoch(self, choice: random.Random) -> None:
        """Keep what makes the choices."""
        self.choice = choice

    def before_step(self, time: float) -> list[str]:
        """Bypass some blocks for this step, or remove the least important ones for good."""
        removed = super().before_step(time)
        self.bypassed = []
        if self.varies:
            names = [unit.name for unit in self.candidates()]
            self.bypassed = self.choice.sample(names, self.count)
            self._step.enter_context(bypassed(self.model, self.bypassed))
        return removed

    def after_step(self) -> None:
        """Restore the bypassed blocks."""
        self._step.close()


STRATEGIES: dict[str, type[Removal]] = {
    "penalty": KeepAll,
    "progressive": Progressive,
    "anneal": Anneal,
    "remove_first": Removal,
    "shallow": Removal,
    "explore": Explore,
}


def _wanted(
    remove: str | int | Sequence[str] | LevelOfPlan, blocks: Sequence[str]
) -> tuple[Sequence[str], int]:
    """Return which blocks may be removed, and how many of them are to be."""
    known = ", ".join(blocks) or "none"
    if remove == "all":
        return blocks, len(blocks)
    if isinstance(remove, int):
        if remove > len(blocks):
            raise BlockError(f"strategy.remove = {remove}, but removable are only: {known}")
        return blocks, remove
    if isinstance(remove, LevelOfPlan):
        raise TypeError("the strategy still refers to a plan; `planned` looks into it")
    for name in remove:
        if name not in blocks:
            hint = near_matches(name, blocks)
            raise BlockError(f"strategy.remove names {name!r}{hint}; removable are: {known}")
    return remove, len(set(remove))


def gated(
    model: nn.Module, names: Sequence[str], weight: Callable[[], float]
) -> AbstractContextManager[None]:
    """Let the named blocks f give (1 − g)·x + g·f(x), with g = `weight()` at every call.

    For a residual block x + h(x) that is x + g·h(x).
    """

    def mix(_: str, x: Tensor, y: Tensor) -> Tensor:
        # Under autocast the two may differ in type, as where a float32 scale ends a block.
        return torch.lerp(x.to(y.dtype), y, weight())

    return paired(model, names, mix)
