"""What `train` writes: metrics/train/<variant>.json."""

from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic reads the one of `typing` from Python 3.12 on


class Learning(TypedDict):
    """What a pass over an epoch's training images came to."""

    learning_rate: float  # of the last step
    loss: float  # task_loss + λ · penalty; the three are means over the steps
    task_loss: float
    penalty: float
    images_seen: int
    macs_spent: int  # of all forward passes over training images


class EpochLog(Learning):
    """One epoch of a training."""

    epoch: int  # from 1
    val_accuracy_pct: float
    distances: dict[str, float]  # max-sliced Wasserstein, by block that is still in the network
    removed: list[str]  # blocks removed so far, in that order
    images_per_s: float  # of training alone
    seconds: float  # validation included


class Named(TypedDict):
    """A section that names what it is of; it has more settings."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    name: str


Penalty = TypedDict("Penalty", {"lambda": float})
Penalty.__pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[attr-defined]


class Distill(TypedDict):
    """The settings of distillation."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    teacher: str | None


class TrainSection(TypedDict):
    """The section `train` of params.yaml, and what of it the report shows."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    strategy: Named
    penalty: Penalty
    distill: Distill


@dataclass(frozen=True)
class TrainMetrics:
    """A training: its settings, what it started from, what it cost, and every epoch."""

    variant: str
    model: dict[str, Any]  # this, train and method: the sections of params.yaml
    train: TrainSection
    method: dict[str, Any]
    initial_weights: dict[str, str]  # origin, sha256
    teacher_sha256: str | None
    device: str
    processes: int
    precision: str
    parameters: int
    removed: list[str]
    images_seen: int
    macs_spent: int
    seconds: float
    images_per_s: float
    epochs: list[EpochLog]
