"""Plan the removal: the order of the blocks, the accuracy at every level, the level to ship.

How the order is found is in `pipeline.search`; validation data decides, never test data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.surgery import bypass
from models.units import Unit
from pipeline.criteria import CRITERIA, gather
from pipeline.data import Dataset, batches, subset
from pipeline.dead_branches import DeadBranch, dead_branches
from pipeline.evaluate import accuracy_pct
from pipeline.params import Plan, Score
from pipeline.replacement import LADDER, StandIns, cheapest, fit
from pipeline.search import SEARCHES, Level, Problem, Shallow, removal_order

BATCH = 256

LatenciesMs = Callable[[Sequence[Shallow]], Sequence[float]]


@dataclass(frozen=True)
class Candidates:
    """The units that may go, in the order in which they run, and how they are judged.

    Attributes:
        units: what can be removed of the network and cut out of its graph.
        scores: their scores in the whole network; low means: remove first.
        criterion: of `pipeline.criteria`, that gave the scores.
        scoring: the `score` section, by which a search scores again.
    """

    units: Sequence[Unit]
    scores: Mapping[str, float]
    criterion: str
    scoring: Score


def in_graph(order: Sequence[str], exported: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the blocks that can be cut out of the exported graph, and why the others cannot.

    Args:
        order: blocks in any order, which is kept.
        exported: the graph's blocks and why each cannot be removed, empty where it can.
    """
    reasons = {name: exported.get(name, "is not in the exported graph") for name in order}
    return (
        [name for name, reason in reasons.items() if not reason],
        {name: reason for name, reason in reasons.items() if reason},
    )


def candidates(
    scored: Mapping[str, Any], exported: Mapping[str, str], params: Plan, score: Score
) -> tuple[Candidates, dict[str, str]]:
    """Return what may go of a network, and why its other removable units stay.

    Args:
        scored: the score metrics.
        exported: the graph's blocks and why each cannot be removed, empty where it can.
        params: the `plan` section, which names the criterion.
        score: how to score again.
    """
    automatic = params.criterion == "auto"
    criterion: str = scored["criterion"] if automatic else params.criterion
    scores = scored["scores"][criterion]
    there, left_out = in_graph(removal_order(scores), exported)
    units = [Unit(**unit) for unit in scored["blocks"] if unit["name"] in there]
    own = {unit.name: scores[unit.name] for unit in units}
    return Candidates(units, own, criterion, score), left_out


def plan(
    model: nn.Module,
    candidates: Candidates,
    data: Dataset,
    params: Plan,
    *,
    latencies_ms: LatenciesMs,
    device: torch.device,
) -> tuple[dict[str, Any], list[StandIns]]:
    """Search for an order of removal, measure validation accuracy at every level and choose one.

    Args:
        model: the trained network.
        candidates: the units that may go.
        data: validation accuracy decides; replacements are fitted on train.
        params: the `plan` section.
        latencies_ms: times networks against each other; asked only by a search that goes by time.
        device: where to run.

    Returns:
        ``order``; ``levels``, one per number of removed blocks 0..K, with what stands in for them,
        the accuracy so, and the accuracy of each kind that was tried; ``chosen_level``; ``dead``,
        the blocks whose branch is dead, which go first; what else the search measured. And each
        level's stand-ins.

    Raises:
        ParamsError: no level is within the latency budget.
    """
    model = model.to(device).eval()
    dead = _dead(model, candidates, data, params, device) if params.dead_branches else {}

    def rescore(level: Level) -> dict[str, float]:
        left = [unit for unit in candidates.units if unit.name not in level.removed]
        shallow = bypass(model, level.removed, level.stand_ins)
        return CRITERIA[candidates.criterion](
            gather(shallow, left, data, candidates.scoring, device)
        )

    def judge(removed: Sequence[str]) -> Level:
        return _judge(model, removed, dead, data, params, device)

    problem = Problem(candidates.scores, params, judge, rescore, latencies_ms, list(dead))
    found = SEARCHES[params.search](problem)
    levels = [
        {"level": number, "removed": level.removed, **level.facts}
        for number, level in enumerate(found.levels)
    ]
    evidence = {
        name: {"how": branch.how, "largest_deviation": branch.largest_deviation}
        for name, branch in dead.items()
    }
    measured = {"order": found.order, "levels": levels, "chosen_level": found.chosen_level}
    stand_ins = [level.stand_ins for level in found.levels]
    return measured | {"dead": evidence} | found.facts, stand_ins


def _dead(
    model: nn.Module, candidates: Candidates, data: Dataset, params: Plan, device: torch.device
) -> dict[str, DeadBranch]:
    """Return the blocks whose branch is dead, in the order of their scores."""
    return dead_branches(
        model, removal_order(candidates.scores), _calibration(data, params, device)
    )


def _constants(removed: Sequence[str], dead: Mapping[str, DeadBranch]) -> StandIns:
    """Return what stands in for the dead blocks among these; the identity where it adds nothing."""
    gone = {name: dead[name].stand_in for name in removed if name in dead}
    return {name: stand_in for name, stand_in in gone.items() if stand_in.bias.any()}


def _calibration(data: Dataset, params: Plan, device: torch.device) -> Iterator[Tensor]:
    """Yield the training images on which replacements are fitted."""
    sample = subset(data.train, params.replacement_samples, seed=0)
    loader = batches(sample, BATCH, mean=data.mean, std=data.std, device=device)
    return (images for images, _ in loader)


def _judge(
    model: nn.Module,
    removed: Sequence[str],
    dead: Mapping[str, DeadBranch],
    data: Dataset,
    params: Plan,
    device: torch.device,
) -> Level:
    """Measure a network without these blocks with every kind of replacement that may be chosen.

    Dead blocks leave their constant whatever stands in for the others.
    """
    constants = _constants(removed, dead)
    without_dead = bypass(model, [name for name in removed if name in dead], constants)
    alive = [name for name in removed if name not in dead]
    fitted = {"identity": constants}
    for kind in _wanted(params.replacement) if alive else ():
        own = fit(without_dead, alive, kind, _calibration(data, params, device))
        fitted[kind] = constants | own
    accuracies = {
        kind: _validate(bypass(model, removed, own), data, device) for kind, own in fitted.items()
    }
    automatic = params.replacement == "auto"
    kind = cheapest(accuracies, params.replacement_slack_pct) if automatic else list(fitted)[-1]
    facts = {
        "replacement": "constant" if kind == "identity" and constants else kind,
        "val_accuracy_pct": accuracies[kind],
        "val_accuracy_by_replacement_pct": accuracies,
    }
    return Level(list(removed), fitted[kind], accuracies[kind], facts)


def _validate(network: nn.Module, data: Dataset, device: torch.device) -> float:
    loader = batches(data.validation, BATCH, mean=data.mean, std=data.std, device=device)
    return accuracy_pct(network, loader)


def _wanted(replacement: str) -> list[str]:
    """Return the kinds to fit; the identity needs none."""
    kinds = {"auto": list(LADDER), "identity": []}
    return kinds.get(replacement, [replacement])
