"""What MLflow holds: the form of a run and of what is beside it, and the parameters' names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHORT_NAMES = {
    "model.name": "model",
    "model.options.": "model.",
    "train.strategy.name": "strategy",
    "train.penalty.": "",
    "train.": "",
}


@dataclass(frozen=True)
class DataSet:
    """The images behind a run, as MLflow's data-set input shows them."""

    name: str
    digest: str  # at most 36 characters
    source: str
    profile: Mapping[str, int]  # numbers of images


@dataclass(frozen=True)
class TrackedRun:
    """What one MLflow run holds."""

    name: str
    group: str  # runs that are looked up together: a variant in one state
    key: str  # of the run itself: while a finished run has it, none is added
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    data: DataSet
    details: Mapping[str, Any]  # JSON: everything that is known of it


@dataclass(frozen=True)
class Comparison:
    """What an experiment shows beside its runs."""

    reason: str  # the recommendation, in one sentence
    recommended: str | None  # the key of its run; None: nothing is recommended
    latency_budget_ms: float | None
    batch_size: int  # that `latency_ms` is of
    report: Sequence[Path]  # HTML and plots


@dataclass(frozen=True)
class Release:
    """The engine to ship, as one version of a registered model."""

    name: str  # of the registered model
    title: str  # of this version, e.g. ``lacoot-l4-int8``
    run: str  # the key of its run
    reason: str  # the recommendation, in one sentence
    graph: Path  # ONNX
    engines: Mapping[str, Path]  # name in the version: file
    tags: Mapping[str, str]


def flat_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in nested dictionaries as ``outer.inner``; flags become 0 and 1.

    Texts, lists and None are skipped: what was not measured is absent.
    """
    leaves = _leaves(values)
    return {key: float(value) for key, value in leaves if isinstance(value, int | float)}


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a variant's `model` and `train` sections as texts under the names the UI shows.

    ``model.name`` is ``model``, its options are ``model.<option>``, and what is under ``train``
    or ``train.penalty`` has its last name: ``epochs``, ``lambda``.
    """
    return {_short_name(key): str(value) for key, value in _leaves(values)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short_name(key: str) -> str:
    for long, short in SHORT_NAMES.items():
        if key.startswith(long):
            return short + key.removeprefix(long)
    return key
