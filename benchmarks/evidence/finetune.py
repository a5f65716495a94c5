"""Fine-tune real ImageNet weights with and without the penalty; write docs/finetune.md.

    python -m benchmarks.evidence.finetune

EfficientNet-Lite0 from the package of the extra `weights`, on 6,000 training images of
Fashion-MNIST scaled to 64×64, two epochs. Blocks go in ascending order of their distance on
validation images, at fixed levels (none, half, all), so nothing is chosen by the test images.
About 10 minutes on two cores.
"""

import argparse
import copy
import dataclasses
import math
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from models.batch_norm import reestimate_batch_norm
from models.surgery import bypass
from models.units import block_units
from pipeline.core.artifacts import replace_file
from pipeline.core.devices import pick_device, pick_precision
from pipeline.core.params import Model, Prepare, Train
from pipeline.core.stage_script import run_stage
from pipeline.data.dataset import Dataset, Split, load
from pipeline.data.prepare import prepare
from pipeline.plan.search.orders import removal_order
from pipeline.train.initial_network import create_network
from pipeline.train.loop import train
from pipeline.train.records import EpochLog

TARGET = Path("docs/finetune.md")
LAMBDAS = (0.0, 5.0)
EVALUATED_IMAGES = 2000  # of validation and of test
BATCH_NORM_IMAGES = 2000  # of train
IMAGES = Prepare(source="fashion_mnist", image_size=64, fit="crop", limit=6000)
NETWORK = Model(name="tf_efficientnet_lite0", pretrained=True)
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 0.002,
    "schedule": "cosine",
    "warmup_fraction": 0.2,
    "flip": True,
}

Levels = list[dict[str, Any]]


def main() -> None:
    """Prepare the images, fine-tune once per λ, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lambdas", type=float, nargs="*", default=LAMBDAS)
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(IMAGES, Path(folder))
        images = reduced(load(Path(folder)))
        results = {weight: fine_tune(weight, images) for weight in arguments.lambdas}
    with replace_file(arguments.target) as temporary:
        temporary.write_text(document(results), encoding="utf-8")
    print(arguments.target.read_text(encoding="utf-8"))


def reduced(images: Dataset) -> Dataset:
    """Keep as many validation and test images as are evaluated."""
    return dataclasses.replace(
        images,
        validation=images.validation.sample(EVALUATED_IMAGES),
        test=images.test.sample(EVALUATED_IMAGES),
    )


def fine_tune(weight: float, images: Dataset) -> dict[str, Any]:
    """Train once with λ = `weight`; return seconds, images/s, and accuracies at three levels."""
    device = pick_device()
    params = Train.model_validate(
        TRAINING | {"penalty": {"lambda": weight, "estimator": "random", "projections": 50}}
    )
    torch.manual_seed(params.seed)
    model, spec, images = create_network(NETWORK, images)
    units = [unit for unit in block_units(model, spec.example()) if unit.removable]

    def log(entry: EpochLog) -> None:
        print(
            f"λ = {weight:g}: epoch {entry['epoch']}  loss {entry['loss']:.3f}  "
            f"R {entry['penalty']:.3f}  val {entry['val_accuracy_pct']:.2f} %  "
            f"{entry['seconds']:.0f} s",
            flush=True,
        )

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "state.pt"
        trained = train(model, images, params, units, device=device, checkpoint=checkpoint, log=log)
    seconds = time.perf_counter() - started
    order = removal_order(trained.history[-1]["distances"])
    levels = [
        measure(model, order[:removed], images, device)
        for removed in (0, len(order) // 2, len(order))
    ]
    return {"origin": spec.initial_weights, "seconds": seconds, "levels": levels}


def measure(
    model: nn.Module, removed: list[str], images: Dataset, device: torch.device
) -> dict[str, Any]:
    """Return the accuracies in % without these blocks, as it is and with batch norm refreshed."""

    def accuracy(network: nn.Module, split: Split) -> float:
        return images.accuracy_pct(split, network, device)

    shallow = bypass(model, removed).eval()
    healed = copy.deepcopy(shallow)
    calibration = images.train.sample(BATCH_NORM_IMAGES)
    reestimate_batch_norm(healed, images.batches(calibration, device=device))
    level = {
        "removed": len(removed),
        "validation": accuracy(shallow, images.validation),
        "validation_bn": accuracy(healed, images.validation),
        "test": accuracy(shallow, images.test),
        "test_bn": accuracy(healed, images.test),
    }
    print("  " + "  ".join(f"{key} {value:.4g}" for key, value in level.items()), flush=True)
    return level


def document(results: dict[float, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    device = pick_device()
    dtype = str(pick_precision("auto", device)).removeprefix("torch.")
    origin = next(iter(results.values()))["origin"]
    lines = [
        "# A fine-tune of real weights",
        "",
        f"Written by `python -m benchmarks.evidence.finetune`. {NETWORK.name} starts from ImageNet "
        f"weights ({origin}) and learns Fashion-MNIST: {IMAGES.limit} training images, grey, "
        f"scaled to {IMAGES.image_size}×{IMAGES.image_size}; {TRAINING['epochs']} epochs, batch "
        f"{TRAINING['batch_size']}, {TRAINING['optimizer']}, learning rate "
        f"{TRAINING['learning_rate']}; one seed. Blocks go in ascending order of their distance on "
        "validation images; the levels are fixed, so nothing was chosen by the test images. "
        f"Accuracy in % on {EVALUATED_IMAGES} validation and {EVALUATED_IMAGES} test images, as it "
        f"is and with batch-norm statistics re-estimated on {BATCH_NORM_IMAGES} training images "
        "(BN). "
        f"At 90 % one accuracy has a standard error of {100 * standard_error(0.9):.1f} points.",
        "",
        f"{device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores "
        f"({platform.machine()}), {dtype}, torch {torch.__version__}, timm {timm.__version__}.",
        "",
        "| λ | blocks out | validation | validation, BN | test | test, BN | training s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for weight, result in results.items():
        seconds = f"{result['seconds']:.0f}"
        lines += [row(weight, level, seconds) for level in result["levels"]]
    return "\n".join(lines) + "\n"


def standard_error(accuracy: float) -> float:
    """Return the standard error of an accuracy (0..1) on the evaluated images."""
    return math.sqrt(accuracy * (1 - accuracy) / EVALUATED_IMAGES)


def row(weight: float, level: dict[str, Any], seconds: str) -> str:
    """Return a line of the table."""
    accuracies = ("validation", "validation_bn", "test", "test_bn")
    cells = [f"{weight:g}", str(level["removed"]), *(f"{level[key]:.2f}" for key in accuracies)]
    return f"| {' | '.join([*cells, seconds])} |"


if __name__ == "__main__":
    run_stage(main)
