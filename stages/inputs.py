"""Networks and images that fit each other: created for a data set, or loaded after training."""

from torch import nn

from models import zoo
from models.errors import ArtifactError
from pipeline.core.artifacts import artifacts_dir
from pipeline.data.dataset import Dataset, load


def load_trained(variant: str) -> tuple[nn.Module, zoo.ModelSpec, Dataset]:
    """Load a variant's trained network (on the CPU), its description, and images normalised for it.

    Raises:
        ArtifactError: a file of `prepare` or `train` is missing or damaged, or the network was
            trained on other classes, or images of another shape, than are prepared now.
    """
    model, spec = zoo.load(artifacts_dir("train", variant))
    data = load(artifacts_dir("prepare"))
    for what, trained, prepared in (
        ("classes", spec.classes, data.classes),
        ("channels", spec.in_chans, data.channels),
        ("image size", spec.image_size, data.image_size),
    ):
        if trained != prepared:
            raise ArtifactError(
                f"{artifacts_dir('train', variant) / 'model.json'} has the {what} {trained}, "
                f"{artifacts_dir('prepare') / 'manifest.json'} has {prepared}; run `dvc repro`"
            )
    return model, spec, data.normalised_by(spec.mean, spec.std)
