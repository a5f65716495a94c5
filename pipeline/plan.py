"""Plan the removal: the order of the blocks, the accuracy at every level, the level to ship.

As in LaCoOT (arXiv 2406.08933, section 4) blocks go in ascending order of their score and the
deepest level within the allowed drop is chosen, here always on validation data.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.surgery import bypass
from pipeline.data import Dataset, batches, subset
from pipeline.evaluate import accuracy_pct, reestimate_batch_norm
from pipeline.params import Plan
from pipeline.progress import progress

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
) -> dict[str, Any]:
    """Measure validation accuracy at every level and choose one.

    Args:
        model: the trained network.
        order: blocks in the order of their removal.
        data: validation accuracy decides; batch-norm statistics are re-estimated on train.
        params: the `plan` section.
        device: where to run.

    Returns:
        ``levels``, one per number of removed blocks 0..K, with the accuracy as it is and with
        batch-norm statistics re-estimated, and ``chosen_level``.
    """
    model = model.to(device).eval()
    options: Any = {"mean": data.mean, "std": data.std, "device": device}
    calibration = subset(data.train, params.bn_samples, seed=0)
    levels: list[dict[str, Any]] = []
    for level in progress(range(len(order) + 1), "levels"):
        shallow = bypass(model, order[:level])
        healed = copy.deepcopy(shallow)
        reestimate_batch_norm(healed, batches(calibration, BATCH, **options))
        levels.append(
            {
                "level": level,
                "removed": list(order[:level]),
                "val_accuracy_pct": accuracy_pct(
                    shallow, batches(data.validation, BATCH, **options)
                ),
                "val_accuracy_bn_pct": accuracy_pct(
                    healed, batches(data.validation, BATCH, **options)
                ),
            }
        )
    accuracies = [level["val_accuracy_pct"] for level in levels]
    return {
        "levels": levels,
        "chosen_level": deepest_level(accuracies, params.max_accuracy_drop_pct),
    }


def deepest_level(accuracies_pct: Sequence[float], max_drop_pct: float) -> int:
    """Return the deepest level whose accuracy is at most `max_drop_pct` points below level 0's."""
    floor = accuracies_pct[0] - max_drop_pct - 1e-9  # a drop of exactly the limit is allowed
    return max(level for level, accuracy in enumerate(accuracies_pct) if accuracy >= floor)
