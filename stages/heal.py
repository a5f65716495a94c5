"""Repair one variant's levels: artifacts/heal/<variant>/ and metrics/heal/<variant>.json.

Batch norm is re-estimated at every level and, where heal.epochs says so, every level without some
blocks is fine-tuned. Killed at any moment, the next run continues from the last finished epoch.
"""

import copy
import sys
from collections.abc import Callable

from torch import nn

from models import zoo
from models.weights.loading import state_sha256
from pipeline.core.artifacts import artifacts_dir, digest, metrics_path, replace_dir
from pipeline.core.devices import pick_device
from pipeline.core.params import load_params
from pipeline.core.records import read_record, write_record
from pipeline.core.stage_script import run_variant_stage
from pipeline.plan.heal import (
    checkpoints,
    chosen_level,
    fine_tuning,
    lagging,
    repair,
    require_repairable,
)
from pipeline.plan.networks import planned_network, repaired_weights
from pipeline.plan.records import HealedLevel, HealMetrics, PlanMetrics, PlannedLevel
from pipeline.train.loop import train
from pipeline.train.records import EpochLog
from stages.inputs import load_trained


def main(variant: str) -> None:
    """Measure every repair of every level, keep the weights that are shipped, choose a level."""
    params = load_params()
    settings = params.variant(variant)
    tuning = fine_tuning(settings.train, params.heal)
    planned = read_record(metrics_path("plan", variant), PlanMetrics)
    model, _, data = load_trained(variant)
    require_repairable(params.heal, model)
    device = pick_device()
    levels: list[HealedLevel] = []
    with checkpoints(tuning, model, data.sha256, device) as unfinished:

        def tune(level: PlannedLevel, student: nn.Module) -> list[EpochLog]:
            # Where a level is finished, its checkpoint holds the result until all are.
            key = digest([level.removed, state_sha256(student)])
            return train(
                student,
                data,
                tuning,
                [],
                device=device,
                checkpoint=unfinished / f"{key}.pt",
                log=_logging(f"{variant}: level {level.level}", tuning.epochs),
                teacher=copy.deepcopy(model) if tuning.distill.weight else None,
            ).history

        with replace_dir(artifacts_dir("heal", variant)) as folder:
            for level in planned.levels:
                network = planned_network(model, variant, level)
                networks, healed = repair(network, level, params.heal, data, device, tune)
                if healed.is_repaired:
                    zoo.save_weights(networks[healed.shipped], repaired_weights(folder, healed))
                levels.append(healed)
                print(f"{variant}: {_line(healed)}", flush=True)
        if warning := lagging(levels[0]):
            print(f"warning: {variant}: {warning}", file=sys.stderr)
        chosen = chosen_level(levels, planned, params.heal, settings.plan)
        section = params.heal.model_dump()
        metrics = HealMetrics(
            variant, **section, device=str(device), levels=levels, chosen_level=chosen
        )
        write_record(metrics_path("heal", variant), metrics)
    print(f"{variant}: level {chosen} is chosen; shipped is {params.heal.ship}")


def _logging(where: str, epochs: int) -> Callable[[EpochLog], None]:
    def log(entry: EpochLog) -> None:
        progress = f"epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}"
        speed = f"{entry['images_per_s']:.0f} images/s"
        print(f"{where}  {progress}  val {entry['val_accuracy_pct']:.2f} %  {speed}", flush=True)

    return log


def _line(level: HealedLevel) -> str:
    accuracies = [f"{name} {value:.2f} %" for name, value in level.val_accuracy_pct.items()]
    return f"level {level.level}  val {', '.join(accuracies)}"


if __name__ == "__main__":
    run_variant_stage(main)
