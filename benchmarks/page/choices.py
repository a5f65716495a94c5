"""Tables of benchmarks/results/choosing.jsonl: what the criteria choose, and how well they rank."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import spearmanr

from benchmarks.evidence.trials import Results
from benchmarks.page.spread import spread
from benchmarks.page.tables import markdown

SEEDS = 3
TRAININGS = ("plain", "penalty")
MEASURES = ("identity", "bn", "healed_briefly", "healed")  # test %
CHANCE = "random"
AGAINST_CHANCE = ("identity", "healed_briefly", "healed")

Measured = dict[str, dict[str, Any]]  # of one network: what was measured by label
Found = dict[str, float]  # a result per measure


def choices(task: str) -> str:
    """Return what each criterion chose, before and after healing, and what chance chooses."""
    lines = []
    for how in TRAININGS:
        every_seed = [_sets(task, how, seed) for seed in range(SEEDS)]
        networks = [_by_way(own) for own in every_seed if own]
        for way in dict.fromkeys(way for network in networks for way in network):
            found = [network for network in networks if way in network]
            cells = [spread([own[way][measure] for own in found]) for measure in MEASURES]
            gains = [
                "" if way == CHANCE else spread([own[way][m] - own[CHANCE][m] for own in found])
                for m in AGAINST_CHANCE
            ]
            lines.append([how, way, str(len(found)), *cells, *gains])
    head = ["training", "chosen by", "seeds", "as removed", "BN", "healed briefly", "healed"]
    return markdown([*head, "over random: as removed", "healed briefly", "healed"], lines)


def _sets(task: str, how: str, seed: int) -> Measured:
    """Return the measurements of halves of a network; nothing where they are not complete."""
    known, prefix = Results("choosing").known, f"{task} {how} {seed}"
    criteria: dict[str, Any] = known.get(f"{prefix} scores", {})
    found: Measured = {by: known[f"{prefix} {by}"] for by in criteria if f"{prefix} {by}" in known}
    if not criteria or len(found) < len(criteria):
        return {}
    every = {name: own for name, own in known.items() if name.startswith(f"{prefix} set ")}
    blocks = len(criteria["msw"])
    return found | every if len(every) == math.comb(blocks, (blocks + 1) // 2) else found


def _by_way(network: Measured) -> dict[str, Found]:
    """Return the results on a network by way of choosing: chance first, then what is possible.

    Chance is the mean over all sets where all were tried, over the draws elsewhere.
    """
    every = [own for label, own in network.items() if " set " in label]
    drawn = [own for label, own in network.items() if label.startswith("random ")]
    ways = {CHANCE: _summary(every or drawn, statistics.mean)}
    if every:
        ways |= {"the worst set": _summary(every, min), "the best set": _summary(every, max)}
    criteria = {
        label: {measure: own[measure] for measure in MEASURES}
        for label, own in network.items()
        if " set " not in label and not label.startswith("random ")
    }
    return ways | criteria


def _summary(sets: Sequence[dict[str, Any]], of: Callable[[list[float]], float]) -> Found:
    return {measure: of([own[measure] for own in sets]) for measure in MEASURES}


def correlations() -> str:
    """Return each criterion's rank correlation with what single blocks are worth."""
    lines = []
    for task in ("resnet18", "efficientnet_lite0"):
        for how in TRAININGS:
            for by, pairs in _ranks(task, how).items():
                before, after = zip(*pairs, strict=True)
                lines.append([task, how, by, spread(before), spread(after)])
    head = ["network", "training", "criterion", "drop as removed", "drop after healing"]
    return markdown(head, lines)


def _ranks(task: str, how: str) -> dict[str, list[tuple[float, float]]]:
    """Return, by criterion, the correlations with the drops before and after healing."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    known = Results("choosing").known
    for seed in range(SEEDS):
        prefix = f"{task} {how} {seed}"
        scores: dict[str, dict[str, float]] = known.get(f"{prefix} scores", {})
        blocks = list(scores.get("msw", {}))
        alone = [known[f"{prefix} {block}"] for block in blocks if f"{prefix} {block}" in known]
        if len(alone) < len(blocks) or not blocks:
            continue
        drops = [[own["whole"] - own[key] for own in alone] for key in ("identity", "healed")]
        for by, own in scores.items():
            before, after = (spearman([own[block] for block in blocks], drop) for drop in drops)
            found["random" if by.startswith("random ") else by].append((before, after))
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the rank correlation; 0 where one side is constant and has no ranks."""
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return float(spearmanr(a, b).statistic)
