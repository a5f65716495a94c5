"""The network that a training starts from."""

from pathlib import Path

from torch import nn

from models import zoo
from models.errors import ParamsError
from pipeline.core.distributed import is_first
from pipeline.core.params import Model, Normalisation
from pipeline.data.dataset import Dataset


def create_network(settings: Model, images: Dataset) -> tuple[nn.Module, zoo.ModelSpec, Dataset]:
    """Create the network that `settings` name for the classes, channels and size of `images`.

    Returns the network, its description, and the images with the normalisation it wants, see
    `_normalisation`. The caller's random seed decides the tensors that no weights are given for.

    Raises:
        WeightsError: the weights cannot be had, or are another network's.
        ParamsError: the normalisation asked for is none of these images.
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
    mean, std, source = images.mean, images.std, "the images"
    if weights:
        mean, std, source = _normalisation(settings, model, images)
    if weights and is_first():
        short = [[round(v, 4) for v in values] for values in (mean, std)]
        what = f"mean {short[0]}, std {short[1]} of {source}"
        print(f"{settings.name}: images are normalised by {what}", flush=True)
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
    return model, spec, images.normalised_by(spec.mean, spec.std)


def _normalisation(
    settings: Model, model: nn.Module, images: Dataset
) -> tuple[list[float], list[float], str]:
    """Return mean and std per channel for a network that starts from weights, and whose they are.

    Where no setting says it: those that a network of Shoal was trained with, which stand beside its
    weights; else those of the architecture's published weights, if it has any; else the images'.
    """
    wanted, channels = settings.normalisation, images.channels
    if isinstance(wanted, Normalisation):
        if {len(wanted.mean), len(wanted.std)} != {channels}:
            raise ParamsError(
                f"model.normalisation has {len(wanted.mean)} means and {len(wanted.std)} "
                f"deviations, and the images have {channels} channels; give one for each"
            )
        return wanted.mean, wanted.std, "model.normalisation"
    if wanted == "auto" and settings.weights is not None:
        file = Path(settings.weights).expanduser()
        if spec := zoo.spec_beside(file):
            return *zoo.for_channels(spec.mean, spec.std, channels), f"{file.parent / zoo.SPEC}"
    published = None if wanted == "images" else zoo.normalisation(model, channels)
    if published:
        return *published, "the architecture's published weights"
    if wanted == "published":
        raise ParamsError(
            f"model.normalisation = 'published', and {settings.name} has no published weights; set "
            "it to images, or to {mean: [...], std: [...]}"
        )
    return images.mean, images.std, "the images"
