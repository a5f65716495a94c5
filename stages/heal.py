"""Repair one variant's levels: artifacts/heal/<variant>/ and metrics/heal/<variant>.json.

Batch norm is re-estimated at every level and, where heal.epochs says so, every level that lacks
blocks is fine-tuned. Killed at any moment, the next run continues from the last finished epoch.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from models import zoo
from models.weights import state_sha256
from pipeline.artifacts import (
    CACHE,
    artifacts_dir,
    code_digest,
    digest,
    metrics_path,
    read_json,
    replace_dir,
    sole_writer,
    write_json,
)
from pipeline.devices import pick_device, pick_precision
from pipeline.heal import chosen_level, fine_tuning, repair, require_repairable
from pipeline.levels import planned_network, repaired_weights
from pipeline.networks import load_trained
from pipeline.params import Train, load_params
from pipeline.repairs import ACCURACIES, Level, is_repaired
from pipeline.train import EpochLog, train
from stages import run_variant_stage


def main(variant: str) -> None:
    """Measure every repair of every level, keep the weights that are shipped, choose a level."""
    params = load_params()
    settings = params.variant(variant)
    tuning = fine_tuning(settings.train, params.heal)
    planned = read_json(metrics_path("plan", variant))
    model, _, data = load_trained(variant)
    require_repairable(params.heal, model)
    device = pick_device()
    levels: list[Level] = []
    with _checkpoints(tuning, model, device) as checkpoints:

        def tune(level: Level, student: nn.Module) -> list[EpochLog]:
            # Where a level is finished, its checkpoint holds the result until all are.
            key = digest([level["removed"], state_sha256(student)])
            log = _logging(f"{variant}: level {level['level']}", tuning.epochs)
            return train(
                student,
                data,
                tuning,
                [],
                device=device,
                checkpoint=checkpoints / f"{key}.pt",
                log=log,
                teacher=copy.deepcopy(model) if tuning.distill.weight else None,
            ).history

        with replace_dir(artifacts_dir("heal", variant)) as folder:
            for level in planned["levels"]:
                network = planned_network(model, variant, level)
                networks, entry = repair(network, level, params.heal, data, device, tune)
                if is_repaired(entry):
                    shipped = networks[entry["shipped"]]
                    zoo.save_weights(shipped, repaired_weights(folder, entry))
                levels.append(entry)
                print(_line(variant, entry), flush=True)
        chosen = chosen_level(levels, planned, params.heal, settings.plan)
        settled = {"variant": variant, **params.heal.model_dump(), "device": str(device)}
        metrics = {**settled, "levels": levels, "chosen_level": chosen}
        write_json(metrics_path("heal", variant), metrics)
    print(f"{variant}: level {chosen} is chosen; shipped is {params.heal.ship}")


@contextmanager
def _checkpoints(tuning: Train, model: nn.Module, device: torch.device) -> Iterator[Path]:
    """Hold the folder of these levels' checkpoints; it goes once the stage has ended well."""
    precision = str(pick_precision(tuning.precision, device))
    images = read_json(metrics_path("prepare"))["sha256"]
    versions = [torch.__version__, version("timm")]
    settled = [tuning.model_dump(by_alias=True), state_sha256(model), images]
    key = digest([*settled, code_digest(), versions, str(device), precision])
    folder = CACHE / "checkpoints" / key
    with sole_writer(folder):
        yield folder
    shutil.rmtree(folder)


def _logging(where: str, epochs: int) -> Callable[[EpochLog], None]:
    def log(entry: EpochLog) -> None:
        told = f"epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}"
        speed = f"{entry['images_per_s']:.0f} images/s"
        print(f"{where}  {told}  val {entry['val_accuracy_pct']:.2f} %  {speed}", flush=True)

    return log


def _line(variant: str, level: Level) -> str:
    told = [f"{kind} {level[key]:.2f} %" for kind, key in ACCURACIES.items() if key in level]
    return f"{variant}: level {level['level']}  val {', '.join(told)}"


if __name__ == "__main__":
    run_variant_stage(main)
