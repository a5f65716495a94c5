"""Train one variant: artifacts/train/<variant>/ and metrics/train/<variant>.json.

Killed at any moment, the next run continues from the last finished epoch.
"""

import dataclasses
import shutil

import torch

from models import zoo
from models.blocks import find_blocks
from models.surgery import count_parameters
from pipeline import data, tracking
from pipeline.artifacts import (
    CACHE,
    artifacts_dir,
    code_digest,
    digest,
    metrics_path,
    read_json,
    replace_dir,
    write_json,
)
from pipeline.devices import pick_device, pick_precision
from pipeline.params import load_params
from pipeline.train import EpochLog, train
from stages import run_variant_stage


def main(variant: str) -> None:
    """Create the variant's network, train it, and write weights and history."""
    params = load_params()
    settings = params.variant(variant)
    images = data.load(artifacts_dir("prepare"))
    device = pick_device()

    torch.manual_seed(settings.train.seed)
    model = zoo.create(
        settings.model.name,
        len(images.classes),
        in_chans=images.channels,
        pretrained=settings.model.pretrained,
        **settings.model.options,
    )
    keeps_normalisation = settings.model.pretrained and images.channels == 3
    mean, std = zoo.normalisation(model) if keeps_normalisation else (images.mean, images.std)
    spec = zoo.ModelSpec(
        name=settings.model.name,
        num_classes=len(images.classes),
        in_chans=images.channels,
        image_size=images.image_size,
        mean=list(mean),
        std=list(std),
        classes=list(images.classes),
        options=settings.model.options,
    )
    images = dataclasses.replace(images, mean=spec.mean, std=spec.std)
    blocks = [block.name for block in find_blocks(model, spec.example()) if block.removable]

    configuration = settings.model_dump(by_alias=True)
    manifest = read_json(metrics_path("prepare"))
    key = digest([configuration, manifest["sha256"], code_digest(), torch.__version__])
    checkpoint = CACHE / "checkpoints" / key / "state.pt"

    if checkpoint.exists():
        print(f"{variant}: continuing an interrupted training", flush=True)
    with tracking.live_training(params.name, variant, key, configuration) as stream:

        def log(entry: EpochLog) -> None:
            print(
                f"{variant}: epoch {entry['epoch']}/{settings.train.epochs}  "
                f"loss {entry['loss']:.3f}  R {entry['penalty']:.3f}  "
                f"val {entry['val_accuracy_pct']:.2f} %  {entry['images_per_s']:.0f} images/s",
                flush=True,
            )
            stream(entry)

        history = train(
            model, images, settings.train, blocks, device=device, checkpoint=checkpoint, log=log
        )

    with replace_dir(artifacts_dir("train", variant)) as folder:
        zoo.save(folder, spec, model)
    seconds = sum(entry["seconds"] for entry in history)
    metrics = {
        "variant": variant,
        **configuration,
        "device": str(device),
        "precision": str(pick_precision(settings.train.precision, device)).removeprefix("torch."),
        "parameters": count_parameters(model),
        "seconds": seconds,
        "images_per_s": settings.train.epochs * len(images.train.labels) / seconds,
        "epochs": history,
    }
    write_json(metrics_path("train", variant), metrics)
    shutil.rmtree(checkpoint.parent)


if __name__ == "__main__":
    run_variant_stage(main)
