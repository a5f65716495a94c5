"""Networks and images that fit each other: created for a data set, or loaded after training."""

import dataclasses

from torch import nn

from models import zoo
from pipeline.artifacts import artifacts_dir
from pipeline.data import Dataset, load
from pipeline.params import Model


def create_network(settings: Model, images: Dataset) -> tuple[nn.Module, zoo.ModelSpec, Dataset]:
    """Create the network that `settings` name for the classes, channels and size of `images`.

    Returns the network, its description, and the images with the normalisation it wants: that of
    its published weights where it has them for colour images, else that of the images.
    """
    model = zoo.create(
        settings.name,
        len(images.classes),
        in_chans=images.channels,
        pretrained=settings.pretrained,
        **settings.options,
    )
    published = settings.pretrained and images.channels == 3
    mean, std = zoo.normalisation(model) if published else (images.mean, images.std)
    spec = zoo.ModelSpec(
        name=settings.name,
        num_classes=len(images.classes),
        in_chans=images.channels,
        image_size=images.image_size,
        mean=list(mean),
        std=list(std),
        classes=list(images.classes),
        options=settings.options,
    )
    return model, spec, _normalised_for(spec, images)


def load_trained(variant: str) -> tuple[nn.Module, zoo.ModelSpec, Dataset]:
    """Load a variant's trained network (on the CPU), its description, and images normalised for it.

    Raises:
        ArtifactError: a file of `prepare` or `train` is missing or damaged.
    """
    model, spec = zoo.load(artifacts_dir("train", variant))
    return model, spec, _normalised_for(spec, load(artifacts_dir("prepare")))


def _normalised_for(spec: zoo.ModelSpec, images: Dataset) -> Dataset:
    return dataclasses.replace(images, mean=spec.mean, std=spec.std)
