"""What every stage after `train` starts from: the variant's network and images to suit it."""

import dataclasses

from torch import nn

from models import zoo
from pipeline import data
from pipeline.artifacts import artifacts_dir


def load_trained(variant: str) -> tuple[nn.Module, zoo.ModelSpec, data.Dataset]:
    """Return the trained network (on the CPU), its description, and the prepared images.

    The images carry the normalisation that the network was trained with.
    """
    model, spec = zoo.load(artifacts_dir("train", variant))
    images = data.load(artifacts_dir("prepare"))
    return model, spec, dataclasses.replace(images, mean=spec.mean, std=spec.std)
