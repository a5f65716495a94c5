"""Train one variant: artifacts/train/<variant>/ and metrics/train/<variant>.json.

Killed at any moment, the next run continues from the last finished epoch. With `train.processes`,
or started by `torchrun`, several processes share the work; the first writes (docs/scale.md).
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import zoo
from models.cost import count_parameters
from models.errors import ShoalError
from models.weights import state_sha256
from pipeline import data, tracking
from pipeline.artifacts import (
    CACHE,
    artifacts_dir,
    code_digest,
    digest,
    metrics_path,
    read_json,
    replace_dir,
    require_unchanged,
    sole_writer,
    write_json,
)
from pipeline.devices import pick_precision
from pipeline.distributed import is_first, world_size
from pipeline.method import select_units
from pipeline.networks import create_network, load_trained
from pipeline.params import Variant, load_params
from pipeline.processes import joined, start, to_start
from pipeline.removal import as_planned
from pipeline.train import EpochLog, train
from stages import run_variant_stage


def main(variant: str) -> None:
    """Train the variant here, or in as many processes as are asked for."""
    params = load_params()
    settings = params.variant(variant)
    if count := to_start(settings.train.processes):
        start(count, "stages.train", variant)
        return
    with joined() as device:
        train_variant(params.name, variant, planned(settings), device)


def train_variant(experiment: str, variant: str, settings: Variant, device: torch.device) -> None:
    """Create the variant's network, train it, and write weights and history."""
    precision = str(pick_precision(settings.train.precision, device)).removeprefix("torch.")
    images = data.load(artifacts_dir("prepare"))
    torch.manual_seed(settings.train.seed)
    model, spec, images = create_network(settings.model, images)
    units = select_units(settings.method, model, spec.example()).removable
    taught_by = settings.train.distill.teacher
    teacher = None if taught_by is None else teacher_of(variant, taught_by, spec)

    configuration = settings.model_dump(by_alias=True, exclude={"plan"})
    # Any number of processes may continue a training.
    decisive = settings.model_dump(by_alias=True, exclude={"plan": True, "train": {"processes"}})
    images_digest = read_json(metrics_path("prepare"))["sha256"]
    for name, sha256 in images_digest.items():  # cheap beside an epoch over them
        require_unchanged(artifacts_dir("prepare") / name, sha256)
    versions = [torch.__version__, version("timm")]
    teaching = None if teacher is None else state_sha256(teacher)
    initial = {"origin": spec.initial_weights, "sha256": state_sha256(model)}
    starts_from = [decisive, initial, teaching, images_digest]
    key = digest([*starts_from, code_digest(), versions, device.type, precision])
    checkpoint = CACHE / "checkpoints" / key / "state.pt"
    with observed(experiment, variant, key, configuration, checkpoint) as log:
        trained = train(
            model,
            images,
            settings.train,
            units,
            device=device,
            checkpoint=checkpoint,
            log=log,
            teacher=teacher,
        )
        if not is_first():
            return
        history = trained.history
        with replace_dir(artifacts_dir("train", variant)) as folder:
            shallow = dataclasses.replace(spec, removed=trained.removed, maps=trained.maps)
            zoo.save(folder, shallow, model)
        metrics = {
            "variant": variant,
            **configuration,
            "initial_weights": initial,
            "teacher_sha256": teaching,
            "device": device.type,
            "processes": world_size(),
            "precision": precision,
            "parameters": count_parameters(model),
            "removed": trained.removed,
            "images_seen": sum(entry["images_seen"] for entry in history),
            "macs_spent": sum(entry["macs_spent"] for entry in history),
            "seconds": sum(entry["seconds"] for entry in history),
            "images_per_s": images_per_s(history),
            "epochs": history,
        }
        write_json(metrics_path("train", variant), metrics)
    shutil.rmtree(checkpoint.parent)


@contextmanager
def observed(
    experiment: str, variant: str, key: str, configuration: Mapping[str, Any], checkpoint: Path
) -> Iterator[Callable[[EpochLog], None]]:
    """Yield what takes each epoch's entry: the first process prints and streams it.

    No other training may write to the checkpoint's folder meanwhile.
    """
    if not is_first():
        yield lambda _: None
        return
    with (
        sole_writer(checkpoint.parent),
        tracking.live_training(experiment, variant, key, configuration) as stream,
    ):
        if checkpoint.exists():
            print(f"{variant}: continuing an interrupted training", flush=True)

        def log(entry: EpochLog) -> None:
            print(_line(variant, configuration["train"]["epochs"], entry), flush=True)
            stream(entry)

        yield log


def planned(settings: Variant) -> Variant:
    """Return the settings with the names of the blocks to remove, also where a plan has them."""
    strategy = as_planned(settings.train.strategy)
    changed = settings.train.model_copy(update={"strategy": strategy})
    return settings.model_copy(update={"train": changed})


def teacher_of(variant: str, name: str, student: zoo.ModelSpec) -> nn.Module:
    """Return the trained network that `variant` is to learn from.

    Raises:
        ShoalError: it is not trained yet, or sees images otherwise normalised than the student.
    """
    if not artifacts_dir("train", name).exists():
        raise ShoalError(
            f"{variant} learns from {name}, which is not trained yet; first: dvc repro train@{name}"
        )
    teacher, spec, _ = load_trained(name)
    if (spec.mean, spec.std) != (student.mean, student.std):
        raise ShoalError(
            f"{variant} and its teacher {name} normalise images differently (mean {student.mean} "
            f"and {spec.mean}); let both start from published weights, or neither"
        )
    return teacher


def images_per_s(history: Sequence[EpochLog]) -> float:
    """Return the mean speed over all epochs, validation left out."""
    seconds = sum(entry["images_seen"] / entry["images_per_s"] for entry in history)
    return float(sum(entry["images_seen"] for entry in history) / seconds)


def _line(variant: str, epochs: int, entry: EpochLog) -> str:
    return (
        f"{variant}: epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  "
        f"R {entry['penalty']:.3f}  val {entry['val_accuracy_pct']:.2f} %  "
        f"{entry['images_per_s']:.0f} images/s"
    )


if __name__ == "__main__":
    run_variant_stage(main)
