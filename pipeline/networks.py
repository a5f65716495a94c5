"""Networks and images that fit each other: created for a data set, or loaded after training."""

import dataclasses

from torch import nn

from models import zoo
from pipeline.artifacts import artifacts_dir
from pipeline.data import Dataset, load
from pipeline.params import Model


def create_network(settings: Model, images: Dataset) -> tuple[nn.Module, zoo.ModelSpec, Dataset]:
    """Create the network that `settings` name for the classes, channels and size of `images`.

    Returns the network, its description, and the images with the normalisation it wants: where it
    starts from weights, that of the architecture's published ones if it has any, else that of the
    images. The caller's random seed decides the tensors that no weights are given for.

    Raises:
        WeightsError: the weights cannot be had, or are another network's.
        ShoalError: the name or an option is wrong.
    """
    weights = None
    if settings.pretrained or settings.weights is not None:
        weights = zoo.initial_weights(settings.name, settings.weights)
    model = zoo.create(
        settings.name,
        len(images.classes),
        in_chans=images.channels,
        weights=weights,
        **settings.options,
    )
    published = zoo.normalisation(model, images.channels) if weights else None
    mean, std = published or (images.mean, images.std)
    spec = zoo.ModelSpec(
        name=settings.name,
        num_classes=len(images.classes),
        in_chans=images.channels,
        image_size=images.image_size,
        mean=list(mean),
        std=list(std),
        classes=list(images.classes),
        options=settings.options,
        initial_weights=weights.origin if weights else "random",
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
