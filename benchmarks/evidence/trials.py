"""Trainings behind docs/results.md: each run once, kept with its weights, measured alike.

A training is known by its task, its recipe and its seed. It is kept under .cache/benchmarks/trials
and found there by every script that needs it again; remove that folder to train anew after the
code has changed. Every process trains on one thread, so that several can run side by side and its
CPU time tells what a training costs, whatever else the machine does.
"""

import dataclasses
import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.batch_norm import batch_norms, reestimate_batch_norm
from models.replacement.fitting import fit
from models.replacement.modules import blank_maps
from models.surgery import bypass, remove_blocks
from models.unit_selection import select_units
from models.units import Unit
from pipeline.core.artifacts import CACHE, digest, locked, read_json, replace_dir, write_json
from pipeline.core.devices import pick_device
from pipeline.core.params import Model, Prepare, Train
from pipeline.data import dataset as data
from pipeline.data.dataset import Dataset, Split
from pipeline.data.prepare import prepare
from pipeline.train.initial_network import create_network
from pipeline.train.loop import train
from pipeline.train.records import EpochLog

FOLDER = CACHE / "benchmarks"
RESULTS = Path("benchmarks/results")  # in git: what was measured, a JSON object a line
VALIDATION_IMAGES = 2000
MONITORED_IMAGES = 500  # of validation, after every epoch
CALIBRATION_IMAGES = 1024


@dataclass(frozen=True)
class Task:
    """A network, its images and its recipe; `recipe["epochs"]` is what the dense network gets."""

    model: Model
    image_size: int
    train_images: int
    test_images: int
    recipe: Mapping[str, Any]


FROM_SCRATCH = {
    "epochs": 12,
    "images_per_epoch": 4500,
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "warmup_fraction": 0.2,
    "flip": True,
    "precision": "fp32",
}
WITH_ADAM = FROM_SCRATCH | {
    "optimizer": "adam",
    "batch_size": 64,
    "learning_rate": 0.002,
    "weight_decay": 0.0,
    "epochs": 8,
    "images_per_epoch": 1250,
}
WITH_SGD = FROM_SCRATCH | {"learning_rate": 0.05, "epochs": 36, "images_per_epoch": 1500}
TASKS = {
    "resnet18": Task(
        Model(name="resnet18_cifar", options={"width": 16}), 32, 18000, 4000, FROM_SCRATCH
    ),
    "resnet18_full": Task(
        Model(name="resnet18_cifar", options={"width": 64}),
        32,
        18000,
        4000,
        FROM_SCRATCH | {"epochs": 6, "precision": "auto"},  # bf16 where the device computes in it
    ),
    "efficientnet_lite0": Task(
        Model(name="tf_efficientnet_lite0", pretrained=True),
        48,
        6000,
        3000,
        WITH_ADAM,
    ),
    "mobilenetv2": Task(Model(name="mobilenetv2_050"), 32, 6000, 3000, WITH_SGD),
    "vit": Task(
        Model(
            name="vit_tiny_patch16_224",
            options={"img_size": 32, "patch_size": 4, "embed_dim": 64, "num_heads": 4, "depth": 6},
        ),
        32,
        6000,
        3000,
        WITH_ADAM | {"epochs": 20},
    ),
}


@dataclass(frozen=True)
class Outcome:
    """A trained network, and what its training cost."""

    model: nn.Module
    units: list[Unit]  # removable, also those that are removed
    images: Dataset
    record: dict[str, Any]

    @property
    def there(self) -> list[str]:
        """Return the removable blocks that have not been taken out, in running order."""
        return [unit.name for unit in self.units if unit.name not in self.record["removed"]]


def training(
    task: str,
    changes: Mapping[str, Any],
    seed: int,
    *,
    start: Outcome | None = None,
    without: Sequence[str] = (),
    teacher: Outcome | None = None,
    pretrained: bool = True,
) -> Outcome:
    """Train once, or load what was trained before.

    Args:
        task: of `TASKS`.
        changes: laid over the task's recipe.
        seed: of the initial weights and of the training.
        start: a trained network to go on from, with a fresh optimiser; none: as the task says.
        without: blocks that are taken out of `start` before.
        teacher: a trained network whose logits are learnt from too.
        pretrained: whether to start from published weights where the task does.
    """
    settings = TASKS[task].model
    settings = settings.model_copy(update={"pretrained": pretrained and settings.pretrained})
    recipe = {"penalty": {"lambda": 0.0}, **TASKS[task].recipe, **changes, "seed": seed}
    origins = [None if given is None else given.record["key"] for given in (start, teacher)]
    key = digest([task, repr(TASKS[task]), recipe, origins, list(without), pretrained])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, spec, images = create_network(settings, images_of(task))
    units = select_units(model, spec.example()).removable
    removed = [*(start.record["removed"] if start else ()), *without]
    remove_blocks(model, removed)
    folder = FOLDER / "trials" / key
    if not folder.exists():
        if start is not None:
            model.load_state_dict(bypass(start.model, without).state_dict(), strict=True)
        record = {"key": key, "task": task, "recipe": recipe, "removed": removed}
        _train(model, images, units, record, folder, teacher)
    record = read_json(folder / "record.json")
    state = torch.load(folder / "model.pt", map_location=pick_device(), weights_only=True)
    remove_blocks(model, record["removed"], blank_maps(record["maps"], state))
    model.load_state_dict(state, strict=True)
    return Outcome(model.eval(), units, images, record)


def _train(
    model: nn.Module,
    images: Dataset,
    units: Sequence[Unit],
    record: dict[str, Any],
    folder: Path,
    teacher: Outcome | None,
) -> None:
    """Train `model` and keep it, with the record completed by what it cost."""
    there = [unit for unit in units if unit.name not in record["removed"]]

    def log(entry: EpochLog) -> None:
        print(
            f"{record['task']} {json.dumps(record['recipe'])}: epoch {entry['epoch']}  "
            f"loss {entry['loss']:.3f}  val {entry['val_accuracy_pct']:.2f} %  "
            f"{entry['images_per_s']:.0f} images/s",
            flush=True,
        )

    checkpoint = FOLDER / "checkpoints" / record["key"]
    started = time.process_time()
    trained = train(
        model,
        monitored(images),
        Train.model_validate(record["recipe"]),
        there,
        device=pick_device(),
        checkpoint=checkpoint,
        log=log,
        teacher=None if teacher is None else teacher.model,
    )
    record |= {
        "removed": [*record["removed"], *trained.removed],
        "maps": trained.maps,
        "cpu_seconds": time.process_time() - started,
        "images_seen": sum(entry["images_seen"] for entry in trained.history),
        "macs_spent": sum(entry["macs_spent"] for entry in trained.history),
        "val_accuracy_pct": trained.history[-1]["val_accuracy_pct"],
        "torch": torch.__version__,
        "commit": _commit(),
    }
    with replace_dir(folder) as temporary:
        torch.save(model.state_dict(), temporary / "model.pt")
        write_json(temporary / "record.json", record)
    checkpoint.unlink()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@functools.cache
def images_of(task: str) -> Dataset:
    """Return a task's images: Fashion-MNIST, with as many of each split as the task wants."""
    size = TASKS[task].image_size
    wanted = Prepare(source="fashion_mnist", image_size=size, fit="pad" if size == 32 else "crop")
    folder = FOLDER / "images" / digest(wanted.model_dump())
    with locked(folder):
        if not folder.exists():
            with replace_dir(folder) as temporary:
                prepare(wanted, temporary)
    images = data.load(folder)
    return dataclasses.replace(
        images,
        train=images.train.sample(TASKS[task].train_images),
        validation=images.validation.sample(VALIDATION_IMAGES),
        test=images.test.sample(TASKS[task].test_images),
    )


def monitored(images: Dataset) -> Dataset:
    """Return the images with fewer to validate on, which is done after every short epoch."""
    few = images.validation.sample(MONITORED_IMAGES)
    return dataclasses.replace(images, validation=few)


def loader(split: Split, images: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split in order, normalised as the network wants it, on the device."""
    return images.batches(split, device=pick_device())


def calibration(images: Dataset) -> Split:
    """Return the training images from which statistics and replacements are taken."""
    return images.train.sample(CALIBRATION_IMAGES)


def test_pct(model: nn.Module, images: Dataset) -> float:
    """Return the accuracy on the test images."""
    return images.accuracy_pct(images.test, model.eval(), pick_device())


def after_removal(
    outcome: Outcome, removed: Sequence[str], *, repairs: Sequence[str] = ("bn", "linear")
) -> dict[str, float]:
    """Return test % without further blocks: as they are (`identity`), and by repair."""
    model, images = outcome.model, outcome.images
    result = {"identity": test_pct(bypass(model, removed), images)}
    if not removed:
        return result
    if "bn" in repairs and batch_norms(model):
        re_estimated = bypass(model, removed)
        reestimate_batch_norm(re_estimated, loader(calibration(images), images))
        result["bn"] = test_pct(re_estimated, images)
    if "linear" in repairs:
        seen = (x for x, _ in loader(calibration(images), images))
        mapped = bypass(model, removed, fit(model, removed, "linear", seen))
        result["linear"] = test_pct(mapped, images)
    return result


class Results:
    """Results by name, each a line of a file in git: looked up, or computed and added."""

    def __init__(self, experiment: str) -> None:
        self.path = RESULTS / f"{experiment}.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        self.known = {entry["name"]: entry["value"] for entry in entries}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return the result of that name; `compute` gives it where it is not known yet."""
        if name not in self.known:
            self.put(name, compute())
        return self.known[name]

    def put(self, name: str, value: Any) -> None:
        """Add a result; of several with one name the last counts."""
        self.known[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(FOLDER / self.path.name), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "value": value}) + "\n")
        print(name, json.dumps(value), flush=True)
