"""The state of a training, and the checkpoint it is continued from: whole, or an error names it.

Own, not Lightning's or accelerate's: a continued training ends with the same weights bit for bit.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.errors import ArtifactError, enough_memory
from models.weights.saving import load_state, save_state
from pipeline.core.artifacts import replace_file
from pipeline.core.distributed import is_first
from pipeline.distances.estimators import Estimator
from pipeline.train.parallel import Replicas
from pipeline.train.records import EpochLog
from pipeline.train.strategies import Removal


@dataclass
class State:
    """Everything that one epoch leaves to the next; random numbers are not among it."""

    parallel: Replicas  # the network, whole or in shards
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    estimator: Estimator  # of the penalty
    strategy: Removal
    history: list[EpochLog] = field(default_factory=list)

    def train_replacements(self, removed: Sequence[str]) -> None:
        """Let the optimiser train the maps that have replaced removed blocks."""
        maps = self.strategy.maps
        for name in removed:
            if name in maps:
                self.optimizer.add_param_group({"params": list(maps[name].parameters())})

    def save(self, checkpoint: Path) -> None:
        """Write the state, keep the one before; only the first process has it whole, and writes."""
        state = self.parallel.state(self.optimizer) | {
            "scaler": self.scaler.state_dict(),
            "estimator": self.estimator.state_dict(),
            "strategy": self.strategy.state_dict(),
            "history": self.history,
        }
        if is_first():
            with replace_file(checkpoint) as temporary:
                save_state(state, temporary)
                if checkpoint.exists():
                    checkpoint.replace(_before(checkpoint))

    def resume(self, checkpoint: Path) -> None:
        """Take up what `save` wrote, the state before where the last is damaged.

        Only the first process reads it.

        Raises:
            ArtifactError: the files are damaged, or the state of another training.
            OutOfMemoryError: there is no room for it.
        """
        state = self.parallel.hand_out(_newest(checkpoint) if is_first() else None)
        with damaged(checkpoint):
            self.strategy.load_state_dict(state["strategy"], state["model"])
            self.train_replacements(self.strategy.removed)
            self.parallel.load(self.optimizer, state)
            self.scaler.load_state_dict(state["scaler"])
            self.estimator.load_state_dict(state["estimator"])
            self.history = state["history"]
        self.parallel.scatter(self.optimizer, state)


def is_there(checkpoint: Path) -> bool:
    """Say whether there is a state to continue from, the last or the one before."""
    return checkpoint.exists() or _before(checkpoint).exists()


def _before(checkpoint: Path) -> Path:
    """Return the file of the state one epoch before."""
    return checkpoint.with_suffix(f".before{checkpoint.suffix}")


def _newest(checkpoint: Path) -> dict[str, Any]:
    """Return the last state that is whole, and leave its file as the last."""
    before = _before(checkpoint)
    try:
        if checkpoint.exists():
            return load_state(checkpoint)
    except ArtifactError as e:
        if not before.exists():
            raise
        why = str(e).removesuffix("; delete it")
        print(f"warning: {why}; the one an epoch before is taken", file=sys.stderr, flush=True)
    state = load_state(before)
    before.replace(checkpoint)
    return state


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn what taking up the state of another training leads to into an `ArtifactError`.

    A shortage of memory stays one. What processes do together is done outside: a connection that
    breaks is a RuntimeError too, and no fault of the file.

    Raises:
        ArtifactError: the state does not fit.
        OutOfMemoryError: there is no room for it.
    """
    try:
        with enough_memory("end other programs on this device, or train on one that has more"):
            yield
    except (RuntimeError, ValueError, KeyError) as e:
        why = " ".join(str(e).split())
        raise ArtifactError(f"checkpoint {path} is damaged ({why}); delete it") from e
