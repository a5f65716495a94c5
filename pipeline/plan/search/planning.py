"""Plan the removal: the order of the blocks, the accuracy at every level, the level to ship.

The order is found in `pipeline.plan.search.orders`; validation data decides, never test data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.replacement.fitting import FITS, Replacements, cheapest, fit
from models.surgery import bypass
from models.units import Unit
from pipeline.core.params import Plan, Score
from pipeline.data.dataset import Dataset
from pipeline.plan.level import MeasuredNetwork, ShallowNetwork
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.plan.scoring.records import ScoreMetrics
from pipeline.plan.search.dead_branches import DeadBranch, dead_branches
from pipeline.plan.search.orders import SEARCHES, SearchProblem, SearchResult, removal_order

LatenciesMs = Callable[[Sequence[ShallowNetwork]], Sequence[float]]
DeadBranches = Mapping[str, DeadBranch]  # by the name of the block


@dataclass(frozen=True)
class Candidates:
    """The units that may be removed, in the order in which they run, and how they are scored.

    Attributes:
        units: what can be removed of the network and cut out of its graph.
        scores: their scores in the whole network; low means: remove first.
        criterion: of `pipeline.plan.scoring.criteria`, that gave the scores.
        scoring: the `score` section, by which a search scores again.
        not_removable: why other units, which were scored, cannot be cut out of the graph.
    """

    units: Sequence[Unit]
    scores: Mapping[str, float]
    criterion: str
    scoring: Score
    not_removable: Mapping[str, str]


def candidates(
    scored: ScoreMetrics, exported: Mapping[str, str], params: Plan, score: Score
) -> Candidates:
    """Return what may be removed of a network.

    Args:
        scored: the score metrics.
        exported: the graph's blocks and why each cannot be removed, empty where it can.
        params: the `plan` section, which names the criterion.
        score: how to score again.
    """
    criterion = scored.criterion if params.criterion == "auto" else params.criterion
    scores = scored.scores[criterion]
    reasons = {n: exported.get(n, "is not in the exported graph") for n in removal_order(scores)}
    units = [Unit(**vars(unit)) for unit in scored.blocks if reasons.get(unit.name) == ""]
    own = {unit.name: scores[unit.name] for unit in units}
    not_removable = {name: reason for name, reason in reasons.items() if reason}
    return Candidates(units, own, criterion, score, not_removable)


def plan(
    model: nn.Module,
    candidates: Candidates,
    data: Dataset,
    params: Plan,
    *,
    latencies_ms: LatenciesMs,
    device: torch.device,
) -> tuple[SearchResult, DeadBranches]:
    """Search for an order of removal, measure validation accuracy at every level and choose one.

    Args:
        model: the trained network.
        candidates: the units that may be removed.
        data: validation accuracy decides; replacements are fitted on train.
        params: the `plan` section.
        latencies_ms: times networks against each other; called only by a search that needs it.
        device: where to run.

    Returns:
        The levels, one per number of removed blocks 0..K, with their replacements; and the blocks
        whose branch is dead, which are removed first.

    Raises:
        ParamsError: no level is within the latency budget.
    """
    model = model.to(device).eval()
    dead: DeadBranches = {}
    if params.dead_branches:
        names = removal_order(candidates.scores)
        dead = dead_branches(model, names, _calibration(data, params, device))

    def rescore(level: MeasuredNetwork) -> dict[str, float]:
        remaining = [unit for unit in candidates.units if unit.name not in level.removed]
        shallow = bypass(model, level.removed, level.replacements)
        measures = gather(shallow, remaining, data, candidates.scoring, device)
        return CRITERIA[candidates.criterion](measures)

    def measure(removed: Sequence[str]) -> MeasuredNetwork:
        return _measure(model, removed, dead, data, params, device)

    problem = SearchProblem(candidates.scores, params, measure, rescore, latencies_ms, list(dead))
    return SEARCHES[params.search](problem), dead


def _calibration(data: Dataset, params: Plan, device: torch.device) -> Iterator[Tensor]:
    """Yield the training images on which replacements are fitted."""
    sample = data.train.sample(params.replacement_samples)
    return (images for images, _ in data.batches(sample, device=device))


def _measure(
    model: nn.Module,
    removed: Sequence[str],
    dead: DeadBranches,
    data: Dataset,
    params: Plan,
    device: torch.device,
) -> MeasuredNetwork:
    """Measure a network without these blocks with every kind of replacement that may be chosen.

    Dead blocks are replaced by their constant, whatever the kind.
    """
    constants = _constants(removed, dead)
    without_dead = bypass(model, [name for name in removed if name in dead], constants)
    others = [name for name in removed if name not in dead]
    fitted = {"identity": constants}
    for kind in _kinds_to_fit(params.replacement) if others else ():
        own = fit(without_dead, others, kind, _calibration(data, params, device))
        fitted[kind] = constants | own
    accuracies = {
        kind: data.validation_accuracy_pct(bypass(model, removed, own), device)
        for kind, own in fitted.items()
    }
    automatic = params.replacement == "auto"
    kind = cheapest(accuracies, params.replacement_slack_pct) if automatic else list(fitted)[-1]
    name = "constant" if kind == "identity" and constants else kind
    return MeasuredNetwork(list(removed), fitted[kind], accuracies[kind], name, accuracies)


def _constants(removed: Sequence[str], dead: DeadBranches) -> Replacements:
    """Return the replacements of the dead blocks among these; none where the constant is 0."""
    found = {name: dead[name].replacement for name in removed if name in dead}
    return {name: replacement for name, replacement in found.items() if replacement.bias.any()}


def _kinds_to_fit(replacement: str) -> list[str]:
    """Return the kinds to fit; the identity needs none."""
    kinds = {"auto": list(FITS), "identity": []}
    return kinds.get(replacement, [replacement])
