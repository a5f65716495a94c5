"""Plan the removal: the order of the blocks, the accuracy at every level, the level to ship.

As in LaCoOT (arXiv 2406.08933, section 4) blocks go in ascending order of their score and the
deepest level within the allowed drop is chosen, here always on validation data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.surgery import bypass
from pipeline.data import Dataset, batches, subset
from pipeline.evaluate import accuracy_pct
from pipeline.params import Plan
from pipeline.progress import progress
from pipeline.replacement import LADDER, StandIns, cheapest, fit

BATCH = 256


def removal_order(scores: Mapping[str, float]) -> list[str]:
    """Return the blocks from the least missed to the most; ties keep the network's order."""
    return sorted(scores, key=lambda name: scores[name])


def in_graph(order: Sequence[str], exported: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the blocks that can be cut out of the exported graph, and why the others cannot.

    Args:
        order: blocks in the order of their removal, which is kept.
        exported: the graph's blocks and why each cannot be removed, empty where it can.
    """
    reasons = {name: exported.get(name, "is not in the exported graph") for name in order}
    return (
        [name for name, reason in reasons.items() if not reason],
        {name: reason for name, reason in reasons.items() if reason},
    )


def plan(
    model: nn.Module, order: Sequence[str], data: Dataset, params: Plan, device: torch.device
) -> tuple[dict[str, Any], list[StandIns]]:
    """Measure validation accuracy at every level and choose one.

    Args:
        model: the trained network.
        order: blocks in the order of their removal.
        data: validation accuracy decides; replacements are fitted on train.
        params: the `plan` section.
        device: where to run.

    Returns:
        ``levels``, one per number of removed blocks 0..K, with what stands in for them, the
        accuracy so, and the accuracy of each kind that was tried; ``chosen_level``. And each
        level's stand-ins.
    """
    model = model.to(device).eval()
    levels, chosen = [], []
    for level in progress(range(len(order) + 1), "levels"):
        measured, stand_ins = _level(model, order[:level], data, params, device)
        levels.append({"level": level, "removed": list(order[:level]), **measured})
        chosen.append(stand_ins)
    accuracies = [level["val_accuracy_pct"] for level in levels]
    return {
        "levels": levels,
        "chosen_level": deepest_level(accuracies, params.max_accuracy_drop_pct),
    }, chosen


def _level(
    model: nn.Module, removed: Sequence[str], data: Dataset, params: Plan, device: torch.device
) -> tuple[dict[str, Any], StandIns]:
    """Measure one level with every kind of replacement that may be chosen."""
    options: Any = {"mean": data.mean, "std": data.std, "device": device}

    def accuracy(network: nn.Module) -> float:
        return accuracy_pct(network, batches(data.validation, BATCH, **options))

    fitted: dict[str, StandIns] = {"identity": {}}
    for kind in _wanted(params.replacement) if removed else ():
        sample = subset(data.train, params.replacement_samples, seed=0)
        fitted[kind] = fit(model, removed, kind, (x for x, _ in batches(sample, BATCH, **options)))
    accuracies = {kind: accuracy(bypass(model, removed, own)) for kind, own in fitted.items()}
    automatic = params.replacement == "auto"
    kind = cheapest(accuracies, params.replacement_slack_pct) if automatic else list(fitted)[-1]
    return {
        "replacement": kind,
        "val_accuracy_pct": accuracies[kind],
        "val_accuracy_by_replacement_pct": accuracies,
    }, fitted[kind]


def _wanted(replacement: str) -> list[str]:
    """Return the kinds to fit; the identity needs none."""
    kinds = {"auto": list(LADDER), "identity": []}
    return kinds.get(replacement, [replacement])


def deepest_level(accuracies_pct: Sequence[float], max_drop_pct: float) -> int:
    """Return the deepest level whose accuracy is at most `max_drop_pct` points below level 0's."""
    floor = accuracies_pct[0] - max_drop_pct - 1e-9  # a drop of exactly the limit is allowed
    return max(level for level, accuracy in enumerate(accuracies_pct) if accuracy >= floor)
