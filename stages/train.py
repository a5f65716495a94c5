"""Train one variant: artifacts/train/<variant>/ and metrics/train/<variant>.json.

Killed at any moment, the next run continues from the last finished epoch.
"""

import dataclasses
import shutil
from importlib.metadata import version

import torch

from models import zoo
from models.cost import count_parameters
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
    sole_writer,
    write_json,
)
from pipeline.devices import pick_device, pick_precision
from pipeline.method import select_units
from pipeline.networks import create_network
from pipeline.params import load_params
from pipeline.train import EpochLog, train
from stages import run_variant_stage


def main(variant: str) -> None:
    """Create the variant's network, train it, and write weights and history."""
    params = load_params()
    settings = params.variant(variant)
    device = pick_device()
    precision = str(pick_precision(settings.train.precision, device)).removeprefix("torch.")
    images = data.load(artifacts_dir("prepare"))
    torch.manual_seed(settings.train.seed)
    model, spec, images = create_network(settings.model, images)
    units = select_units(settings.method, model, spec.example()).removable

    configuration = settings.model_dump(by_alias=True)
    images_digest = read_json(metrics_path("prepare"))["sha256"]
    versions = [torch.__version__, version("timm")]
    initial = {"origin": spec.initial_weights, "sha256": state_sha256(model)}
    key = digest(
        [configuration, initial, images_digest, code_digest(), versions, str(device), precision]
    )
    checkpoint = CACHE / "checkpoints" / key / "state.pt"
    with (
        sole_writer(checkpoint.parent),
        tracking.live_training(params.name, variant, key, configuration) as stream,
    ):
        if checkpoint.exists():
            print(f"{variant}: continuing an interrupted training", flush=True)

        def log(entry: EpochLog) -> None:
            print(_line(variant, settings.train.epochs, entry), flush=True)
            stream(entry)

        trained = train(
            model, images, settings.train, units, device=device, checkpoint=checkpoint, log=log
        )
        history = trained.history
        with replace_dir(artifacts_dir("train", variant)) as folder:
            zoo.save(folder, dataclasses.replace(spec, removed=trained.removed), model)
        metrics = {
            "variant": variant,
            **configuration,
            "initial_weights": initial,
            "device": str(device),
            "precision": precision,
            "parameters": count_parameters(model),
            "removed": trained.removed,
            "images_seen": len(images.train) * len(history),
            "macs_spent": sum(entry["macs_spent"] for entry in history),
            "seconds": sum(entry["seconds"] for entry in history),
            "images_per_s": len(history) / sum(1 / entry["images_per_s"] for entry in history),
            "epochs": history,
        }
        write_json(metrics_path("train", variant), metrics)
    shutil.rmtree(checkpoint.parent)


def _line(variant: str, epochs: int, entry: EpochLog) -> str:
    return (
        f"{variant}: epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  "
        f"R {entry['penalty']:.3f}  val {entry['val_accuracy_pct']:.2f} %  "
        f"{entry['images_per_s']:.0f} images/s"
    )


if __name__ == "__main__":
    run_variant_stage(main)
