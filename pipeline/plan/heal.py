"""Repair a level's network after its blocks were removed: batch norm re-estimated, or fine-tuned.

Neither changes the network's structure: the replacements of blocks stay and, where they have
parameters, are tuned along.
"""

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.batch_norm import batch_norms, reestimate_batch_norm
from models.errors import ParamsError
from models.weights.loading import state_sha256
from pipeline.core.artifacts import CACHE, code_digest, digest, sole_writer
from pipeline.core.devices import pick_precision
from pipeline.core.params import Distill, Heal, Penalty, Plan, Strategy, Train
from pipeline.data.dataset import Dataset
from pipeline.plan.level import deepest_level, most_accurate_level
from pipeline.plan.records import HealedLevel, Healing, PlanMetrics, PlannedLevel, Repair

REPORTED = ("epoch", "learning_rate", "loss", "val_accuracy_pct")  # of an epoch of fine-tuning

LAG_PCT = 2.0  # points that whole networks gain where their running statistics are no good

# Fine-tunes a level's network in place; returns its epochs, as `pipeline.train.loop` has them.
Tune = Callable[[PlannedLevel, nn.Module], Sequence[Mapping[str, Any]]]


def fine_tuning(train: Train, heal: Heal) -> Train:
    """Return the settings by which a level is fine-tuned: those of its variant's training.

    Epochs, learning rate and distillation are those of `heal`. There is no penalty and no strategy:
    the blocks are removed already. One process does it.
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


@contextmanager
def checkpoints(
    tuning: Train, model: nn.Module, images_sha256: Mapping[str, str], device: torch.device
) -> Iterator[Path]:
    """Yield the folder for the levels' checkpoints; it is deleted once the stage has succeeded.

    Args:
        tuning: the settings of `fine_tuning`.
        model: the whole network.
        images_sha256: of the files of `prepare`.
        device: where levels are fine-tuned.
    """
    precision = str(pick_precision(tuning.precision, device))
    starts_from = [tuning.model_dump(by_alias=True), state_sha256(model), images_sha256]
    versions = [torch.__version__, version("timm")]
    key = digest([*starts_from, code_digest("heal"), versions, str(device), precision])
    folder = CACHE / "checkpoints" / key
    with sole_writer(folder):
        yield folder
    shutil.rmtree(folder)


def require_repairable(heal: Heal, model: nn.Module) -> None:
    """Raise `ParamsError` where a repair is to be shipped that cannot be made of this network."""
    if heal.ship == "batch_norm" and not batch_norms(model):
        raise ParamsError(
            f"heal.ship = 'batch_norm', but {type(model).__name__} has no batch norm to "
            "re-estimate; ship removed or healed"
        )


def repair(
    network: nn.Module,
    level: PlannedLevel,
    heal: Heal,
    data: Dataset,
    device: torch.device,
    tune: Tune,
) -> tuple[dict[Repair, nn.Module], HealedLevel]:
    """Make every repair of one level's network and measure each.

    Args:
        network: of the level, as planned; it is left as it is.
        level: of the plan.
        heal: which repairs are made and which is shipped.
        data: images; validation accuracy is measured.
        device: where to run.
        tune: called where epochs of `heal` are above 0 and blocks are removed.

    Returns:
        The networks by repair, and the level with every accuracy that was measured.
    """
    networks: dict[Repair, nn.Module] = {"removed": network}
    accuracies: dict[Repair, float] = {"removed": level.val_accuracy_pct}
    healing = None
    if batch_norms(network):
        repaired = networks["batch_norm"] = re_estimated(network, data, heal.bn_samples, device)
        accuracies["batch_norm"] = data.validation_accuracy_pct(repaired, device)
    if heal.epochs and level.removed:
        student = networks["healed"] = copy.deepcopy(network)
        epochs = tune(level, student)
        student.eval()
        accuracies["healed"] = epochs[-1]["val_accuracy_pct"]
        healing = _healing(epochs)
    # The whole network is the reference, so it is shipped as it was trained. A network whose batch
    # norms were all in removed blocks has none to re-estimate.
    shipped = heal.ship if level.removed and heal.ship in networks else "removed"
    return networks, HealedLevel(
        level.level, level.removed, level.replacement, shipped, accuracies, healing
    )


def lagging(whole: HealedLevel) -> str | None:
    """Return a warning where level 0 is points better with its batch norm re-estimated.

    Then running statistics lag behind the weights, after too few steps, and every accuracy of the
    plan is of such statistics.
    """
    plain, repaired = (whole.val_accuracy_pct.get(repair) for repair in ("removed", "batch_norm"))
    if plain is None or repaired is None or repaired - plain < LAG_PCT:
        return None
    return (
        f"level 0 has {repaired:.2f} % with batch norm re-estimated and {plain:.2f} % without: its "
        "running statistics lag behind its weights, and accuracies of the plan are of such; train "
        "for more steps (train.epochs, or a smaller train.batch_size), or set heal.ship: batch_norm"
    )


def _healing(epochs: Sequence[Mapping[str, Any]]) -> Healing:
    return Healing(
        seconds=sum(epoch["seconds"] for epoch in epochs),
        images_seen=sum(epoch["images_seen"] for epoch in epochs),
        macs_spent=sum(epoch["macs_spent"] for epoch in epochs),
        epochs=[{key: epoch[key] for key in REPORTED} for epoch in epochs],
    )


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
    reestimate_batch_norm(repaired, data.batches(data.train.sample(samples), device=device))
    return repaired


def chosen_level(
    levels: Sequence[HealedLevel], planned: PlanMetrics, heal: Heal, plan: Plan
) -> int:
    """Return the level to ship: that of the plan, chosen anew where levels are repaired.

    A plan decides by validation accuracy. With repairs a deeper level may be accurate enough, or
    another one be the most accurate within a budget of latency.

    Args:
        levels: all of them, repaired.
        planned: the plan.
        heal: which repair is shipped.
        plan: what is allowed.
    """
    if heal.ship == "removed":
        return planned.chosen_level
    accuracies = [level.shipped_accuracy_pct for level in levels]
    if not plan.measures_latency:
        return deepest_level(accuracies, plan.max_accuracy_drop_pct)
    # Repairs change no structure, so the plan's latencies hold.
    latencies = [level.latency_ms for level in planned.levels if level.latency_ms is not None]
    return most_accurate_level(accuracies, latencies, plan)
