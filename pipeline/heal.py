"""Repair a level's network after its blocks went: batch norm re-estimated, or fine-tuned.

Neither changes the network's structure: what stands in for a block stays and, where it has
parameters, is tuned along.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.errors import ParamsError
from pipeline import search
from pipeline.data import Dataset, batches, subset
from pipeline.evaluate import accuracy_pct, has_batch_norm, reestimate_batch_norm
from pipeline.params import Distill, Heal, Penalty, Plan, Strategy, Train
from pipeline.repairs import ACCURACIES, AS_PLANNED, Level, shipped_accuracy_pct

BATCH = 256
KEPT = ("level", "removed", "replacement")  # of what `plan` says of a level
TOLD = ("epoch", "learning_rate", "loss", "val_accuracy_pct")  # of an epoch of fine-tuning

# Fine-tunes a level's network in place; returns its epochs, as `pipeline.train` describes them.
Tune = Callable[[Level, nn.Module], Sequence[Mapping[str, Any]]]


def fine_tuning(train: Train, heal: Heal) -> Train:
    """Return the settings by which a level is fine-tuned: those of its variant's training.

    Epochs, learning rate and distillation are those of `heal`. The penalty, which made blocks
    dispensable, and a strategy, which took some out, have done their work and are left out. One
    process does it.
    """
    changes = {
        "epochs": heal.epochs,
        "learning_rate": heal.learning_rate,
        "penalty": Penalty.model_validate({"lambda": 0.0}),
        "strategy": Strategy(),
        "distill": Distill(**heal.distill.model_dump()),
        "parallel": "ddp",
    }
    return train.model_copy(update=changes)


def require_repairable(heal: Heal, model: nn.Module) -> None:
    """Raise `ParamsError` where a repair is to be shipped that cannot be made of this network."""
    if heal.ship == "batch_norm" and not has_batch_norm(model):
        raise ParamsError(
            f"heal.ship = 'batch_norm', but {type(model).__name__} has no batch norm to "
            "re-estimate; ship removed or healed"
        )


def repair(
    network: nn.Module, level: Level, heal: Heal, data: Dataset, device: torch.device, tune: Tune
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Make every repair of one level's network and measure each.

    Args:
        network: of the level, as planned; it is left as it is.
        level: its entry of `plan`.
        heal: which repairs are made and which is shipped.
        data: images; validation accuracy is measured.
        device: where to run.
        tune: called where epochs of `heal` are above 0 and the level lacks blocks.

    Returns:
        The networks, by the kinds of `ACCURACIES`; and the level's entry of `heal`: what is
        shipped, every accuracy that was measured and, under ``healing``, what fine-tuning took.
    """
    networks = {AS_PLANNED: network}
    measured: dict[str, Any] = {ACCURACIES[AS_PLANNED]: level["val_accuracy_pct"]}
    if has_batch_norm(network):
        repaired = networks["batch_norm"] = re_estimated(network, data, heal.bn_samples, device)
        loader = batches(data.validation, BATCH, mean=data.mean, std=data.std, device=device)
        measured[ACCURACIES["batch_norm"]] = accuracy_pct(repaired, loader)
    if heal.epochs and level["removed"]:
        student = networks["healed"] = copy.deepcopy(network)
        epochs = tune(level, student)
        student.eval()
        measured[ACCURACIES["healed"]] = epochs[-1]["val_accuracy_pct"]
        measured["healing"] = _spent(epochs)
    # The whole network has lost nothing: it is shipped, and compared with, as it was trained. A
    # level that has lost its batch norms with its blocks has none to re-estimate.
    shipped = heal.ship if level["removed"] and heal.ship in networks else AS_PLANNED
    return networks, {**{key: level[key] for key in KEPT}, "shipped": shipped, **measured}


def _spent(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "images_seen": sum(epoch["images_seen"] for epoch in epochs),
        "macs_spent": sum(epoch["macs_spent"] for epoch in epochs),
        "epochs": [{key: epoch[key] for key in TOLD} for epoch in epochs],
    }


def re_estimated(
    network: nn.Module, data: Dataset, samples: int, device: torch.device
) -> nn.Module:
    """Return a copy of a network, on `device`, with its batch-norm statistics re-estimated.

    Args:
        network: a level's network.
        data: whose training images they are re-estimated on.
        samples: how many of these.
        device: where to run.
    """
    repaired = copy.deepcopy(network).to(device)
    some = subset(data.train, samples, seed=0)
    loader = batches(some, BATCH, mean=data.mean, std=data.std, device=device)
    reestimate_batch_norm(repaired, loader)
    return repaired


def chosen_level(
    levels: Sequence[Level], planned: Mapping[str, Any], heal: Heal, plan: Plan
) -> int:
    """Return the level to ship: that of `plan`, or where levels are repaired the one it would be.

    A plan goes by validation accuracy, so what is shipped may be good enough at a deeper level, or
    another one be the most accurate within a budget of latency.

    Args:
        levels: entries of `heal`, all levels.
        planned: the metrics of `plan`.
        heal: says what is shipped.
        plan: says what is allowed.
    """
    if heal.ship == AS_PLANNED:
        return int(planned["chosen_level"])
    accuracies = [shipped_accuracy_pct(level) for level in levels]
    if not plan.measures_latency:
        return search.deepest_level(accuracies, plan.max_accuracy_drop_pct)
    # Repairs change no structure, so the plan's latencies hold.
    measured = [
        search.Level(level["removed"], {}, accuracy)
        for level, accuracy in zip(levels, accuracies, strict=True)
    ]
    latencies = [level["latency_ms"] for level in planned["levels"]]
    return search.most_accurate_level(measured, latencies, plan)
