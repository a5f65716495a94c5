"""Blocks that leave a network while it trains, on the schedule of a strategy."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models.errors import BlockError, ParamsError, near_matches
from models.replacements import ChannelMap, blank_maps, maps_in
from models.surgery import left_out, module_paths, take_out
from models.units import Unit
from pipeline.artifacts import read_json
from pipeline.criteria import CRITERIA, Evidence
from pipeline.distributed import from_first
from pipeline.params import PlannedLevel, Strategy
from pipeline.replacement import StandIns
from pipeline.strategies import STRATEGIES

Measure = Callable[[Sequence[Unit], int], Evidence]
Fit = Callable[[Sequence[str]], StandIns]


class Removal:
    """Which blocks of a network in training have gone, and which go next.

    Args:
        model: the network; blocks are taken out of it in place.
        units: its removable units.
        strategy: when and how many go.
        measure: returns the evidence on units of the network as it is, of which so many are to
            go; it decides which.
        fit: returns what is to stand in for blocks of the network as it is; asked where the
            strategy says that something does.

    Raises:
        BlockError: blocks are to go that there are not.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Sequence[Unit],
        strategy: Strategy,
        measure: Measure,
        fit: Fit,
    ) -> None:
        self.model, self.units, self.strategy = model, units, strategy
        self.measure, self.fit = measure, fit
        self.schedule = STRATEGIES[strategy.name]
        self.count = _count(strategy.remove, [unit.name for unit in units])
        self.gone: list[str] = []
        self.fading: list[str] = []  # chosen already, because they fade before they go

    def advance(self, time: float) -> list[ChannelMap]:
        """Take out what is due by `time`, 0..1: the least missed first, as the network is now.

        Returns:
            The maps that stand in for it: new parameters of the network.
        """
        due = self.schedule.gone(time, self.strategy.gone_at, self.count)
        if due <= len(self.gone):
            return []
        names = (self.fading or self._ranked())[: due - len(self.gone)]
        stand_ins = {} if self.strategy.replacement == "identity" else self.fit(names)
        take_out(self.model, names, stand_ins)
        self.gone += names
        self.fading = [name for name in self.fading if name not in names]
        return list(maps_in(self.model, names).values())

    @property
    def maps(self) -> dict[str, ChannelMap]:
        """Return the maps that stand in for blocks that are gone, in the order of going."""
        return maps_in(self.model, self.gone)

    @contextmanager
    def faded(self, time: Callable[[], float]) -> Iterator[None]:
        """Let what is to go contribute less and less, where the strategy says so."""
        gate, until = self.schedule.gate, self.strategy.gone_at
        if gate is not None and not self.gone and not self.fading:
            self.fading = self._ranked()[: self.count]
        if gate is None or not self.fading:
            yield
            return
        with gated(self.model, self.fading, lambda: gate(time(), until)):
            yield

    @property
    def samples(self) -> bool:
        """Say whether the next step leaves out blocks at random."""
        return self.schedule.samples and not self.gone

    @contextmanager
    def sampled(self, choice: random.Random) -> Iterator[list[str]]:
        """Let the network run without as many blocks as are to go, where the strategy says so."""
        if not self.samples:
            yield []
            return
        names = choice.sample([unit.name for unit in self._candidates()], self.count)
        with left_out(self.model, names):
            yield names

    def state_dict(self) -> dict[str, Any]:
        """Return what a continued run needs."""
        axes = {name: stand_in.axis for name, stand_in in self.maps.items()}
        return {"gone": self.gone, "fading": self.fading, "axes": axes}

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned: the same blocks leave the network.

        Args:
            state: of a removal.
            weights: the network's state from then; it tells the form of the maps in it, which are
                to be loaded afterwards.
        """
        self.gone, self.fading = list(state["gone"]), list(state["fading"])
        take_out(self.model, self.gone, blank_maps(state["axes"], weights))

    def _ranked(self) -> list[str]:
        """Return the candidates that are still there, the least missed first."""
        was_training = self.model.training
        evidence = self.measure(self._candidates(), self.count - len(self.gone))
        scores = CRITERIA[self.strategy.criterion](evidence)
        self.model.train(was_training)
        # Rounding must not let the processes of a training part ways.
        return from_first(sorted(scores, key=lambda name: scores[name]))

    def _candidates(self) -> list[Unit]:
        """Return the units that are still there and may go."""
        wanted = self.strategy.remove
        there = [unit for unit in self.units if unit.name not in self.gone]
        return (
            [unit for unit in there if unit.name in wanted] if isinstance(wanted, list) else there
        )


def as_planned(strategy: Strategy) -> Strategy:
    """Return the strategy with the blocks' names where it refers to a plan file.

    Raises:
        ArtifactError: there is no such file.
        ParamsError: it is not a plan, or has no such level.
    """
    wanted = strategy.remove
    if not isinstance(wanted, PlannedLevel):
        return strategy
    try:
        levels = {
            level["level"]: level["removed"] for level in read_json(Path(wanted.plan))["levels"]
        }
        deepest = max(levels)
    except (KeyError, TypeError, ValueError, IsADirectoryError) as e:
        raise ParamsError(
            f"strategy.remove.plan = {wanted.plan!r} is no plan; it takes a file that the stage "
            "plan wrote: metrics/plan/<variant>.json"
        ) from e
    if wanted.level not in levels:
        raise ParamsError(
            f"strategy.remove.level = {wanted.level}, but {wanted.plan} ends at {deepest}"
        )
    return strategy.model_copy(update={"remove": levels[wanted.level]})


def _count(remove: str | int | Sequence[str] | PlannedLevel, blocks: Sequence[str]) -> int:
    """Return how many blocks are to go; raise `BlockError` where there are not so many."""
    known = ", ".join(blocks) or "none"
    if remove == "all":
        return len(blocks)
    if isinstance(remove, int):
        if remove > len(blocks):
            raise BlockError(f"strategy.remove = {remove}, but removable are only: {known}")
        return remove
    if isinstance(remove, PlannedLevel):
        raise TypeError("the strategy still refers to a plan; `as_planned` looks into it")
    for name in remove:
        if name not in blocks:
            hint = near_matches(name, blocks)
            raise BlockError(f"strategy.remove names {name!r}{hint}; removable are: {known}")
    return len(set(remove))


@contextmanager
def gated(model: nn.Module, names: Sequence[str], share: Callable[[], float]) -> Iterator[None]:
    """Let the named blocks f give (1 − g)·x + g·f(x), with g = `share()` at every call.

    For a residual block x + h(x) that is x + g·h(x).
    """
    entered: dict[str, Tensor] = {}

    def hooks(name: str) -> Iterator[RemovableHandle]:
        def enter(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            entered[name] = args[0]

        def fade(_: nn.Module, __: object, output: Tensor) -> Tensor:
            # Under autocast the two may differ in type, as where a float32 scale ends a block.
            return torch.lerp(entered.pop(name).to(output.dtype), output, share())

        paths = module_paths(name)
        yield model.get_submodule(paths[0]).register_forward_pre_hook(enter)
        yield model.get_submodule(paths[-1]).register_forward_hook(fade)

    handles = [handle for name in names for handle in hooks(name)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
