"""One variant's training, from its settings and the prepared images to weights and metrics."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from models import zoo
from models.cost import count_parameters
from models.errors import ArtifactError, ParamsError, ShoalError
from models.unit_selection import select_units
from models.weights.loading import state_sha256
from pipeline.core.artifacts import (
    CACHE,
    artifacts_dir,
    code_digest,
    digest,
    metrics_path,
    replace_dir,
    sole_writer,
)
from pipeline.core.devices import pick_precision
from pipeline.core.distributed import is_first, world_size
from pipeline.core.params import LevelOfPlan, Variant
from pipeline.core.records import read_record, write_record
from pipeline.data import dataset
from pipeline.train.checkpoints import is_there
from pipeline.train.initial_network import create_network
from pipeline.train.loop import train
from pipeline.train.records import EpochLog, TrainMetrics

Log = Callable[[EpochLog], None]
# (the variant's name, the key of its training, its sections) → takes each epoch's entry
Observer = Callable[[str, str, Mapping[str, Any]], AbstractContextManager[Log]]


@dataclass(frozen=True)
class _Level:
    level: int
    removed: list[str]


@dataclass(frozen=True)
class _Plan:
    """What a training reads of metrics/plan/<variant>.json; a plan's other fields may change."""

    levels: Annotated[list[_Level], Field(min_length=1)]


def train_variant(
    variant: str, settings: Variant, device: torch.device, observer: Observer
) -> None:
    """Create the variant's network, train it, and write weights and metrics.

    Every process of the training calls it; the first prints, passes epochs on, and writes.

    Raises:
        ShoalError: as `create_network`, `train` and `planned`, or the teacher does not fit.
    """
    settings = planned(settings)
    images = dataset.load(artifacts_dir("prepare"))
    torch.manual_seed(settings.train.seed)
    model, spec, images = create_network(settings.model, images)
    units = select_units(model, spec.example(), settings.method.mode, settings.method.unit)
    teacher = _teacher(variant, settings.train.distill.teacher, spec)

    precision = str(pick_precision(settings.train.precision, device)).removeprefix("torch.")
    initial = {"origin": spec.initial_weights, "sha256": state_sha256(model)}
    statistics = [spec.mean, spec.std]  # which may stand beside the initial weights
    teacher_sha256 = None if teacher is None else state_sha256(teacher)
    # Any number of processes may continue a training.
    decisive = settings.model_dump(by_alias=True, exclude={"plan": True, "train": {"processes"}})
    versions = [torch.__version__, version("timm"), device.type, precision]
    starts_from = [initial, statistics, teacher_sha256, images.sha256]
    key = digest([decisive, *starts_from, code_digest("train"), *versions])
    checkpoint = CACHE / "checkpoints" / key / "state.pt"

    sections = settings.model_dump(by_alias=True, exclude={"plan"})
    with _observed(variant, key, sections, checkpoint, observer) as log:
        if is_first():
            zoo.save_spec(checkpoint.parent, spec)  # should another training start from it
        options: Any = {"device": device, "checkpoint": checkpoint, "log": log, "teacher": teacher}
        trained = train(model, images, settings.train, units.removable, **options)
        if not is_first():
            return
        with replace_dir(artifacts_dir("train", variant)) as folder:
            shallow = dataclasses.replace(spec, removed=trained.removed, maps=trained.maps)
            zoo.save(folder, shallow, model)
        history = trained.history
        images_seen = sum(entry["images_seen"] for entry in history)
        metrics = TrainMetrics(
            variant=variant,
            **sections,
            initial_weights=initial,
            teacher_sha256=teacher_sha256,
            device=device.type,
            processes=world_size(),
            precision=precision,
            parameters=count_parameters(model),
            removed=trained.removed,
            images_seen=images_seen,
            macs_spent=sum(entry["macs_spent"] for entry in history),
            seconds=sum(entry["seconds"] for entry in history),
            images_per_s=images_seen / sum(e["images_seen"] / e["images_per_s"] for e in history),
            epochs=history,
        )
        write_record(metrics_path("train", variant), metrics)
    shutil.rmtree(checkpoint.parent)


def planned(settings: Variant) -> Variant:
    """Return the settings with the names of the blocks to remove where they refer to a plan file.

    Raises:
        ParamsError: there is no such file, it is not a plan, or has no such level.
    """
    wanted = settings.train.strategy.remove
    if not isinstance(wanted, LevelOfPlan):
        return settings
    try:
        plan = read_record(Path(wanted.plan), _Plan)
    except (ArtifactError, IsADirectoryError) as e:
        raise ParamsError(
            f"strategy.remove.plan = {wanted.plan!r} is no plan; it takes a file that the stage "
            f"plan wrote: metrics/plan/<variant>.json ({e})"
        ) from e
    levels = {level.level: level.removed for level in plan.levels}
    if wanted.level not in levels:
        raise ParamsError(
            f"strategy.remove.level = {wanted.level}, but {wanted.plan} ends at {max(levels)}"
        )
    strategy = settings.train.strategy.model_copy(update={"remove": levels[wanted.level]})
    train = settings.train.model_copy(update={"strategy": strategy})
    return settings.model_copy(update={"train": train})


def _teacher(variant: str, name: str | None, student: zoo.ModelSpec) -> nn.Module | None:
    """Return the trained network that `variant` is to learn from, if any.

    Raises:
        ShoalError: it is not trained yet, or sees images otherwise normalised than the student.
    """
    if name is None:
        return None
    if not artifacts_dir("train", name).exists():
        raise ShoalError(
            f"{variant} learns from {name}, which is not trained yet; first: dvc repro train@{name}"
        )
    teacher, spec = zoo.load(artifacts_dir("train", name))
    if (spec.mean, spec.std) != (student.mean, student.std):
        raise ShoalError(
            f"{variant} and its teacher {name} normalise images differently (mean {student.mean} "
            f"and {spec.mean}); let both start from published weights, or neither"
        )
    return teacher


@contextmanager
def _observed(
    variant: str, key: str, sections: Mapping[str, Any], checkpoint: Path, observer: Observer
) -> Iterator[Log]:
    """Yield what takes each epoch's entry: the first process prints it and passes it on.

    It is the checkpoint's sole writer: a stage that outlived a killed DVC would write it too.
    """
    if not is_first():
        yield lambda _: None
        return
    epochs = sections["train"]["epochs"]
    with sole_writer(checkpoint.parent), observer(variant, key, sections) as observe:
        if is_there(checkpoint):
            print(f"{variant}: continuing an interrupted training", flush=True)

        def log(entry: EpochLog) -> None:
            print(
                f"{variant}: epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  "
                f"R {entry['penalty']:.3f}  val {entry['val_accuracy_pct']:.2f} %  "
                f"{entry['images_per_s']:.0f} images/s",
                flush=True,
            )
            observe(entry)

        yield log
