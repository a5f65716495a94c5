"""Networks and images that fit each other."""

from pathlib import Path

import pytest
import torch

from models import zoo
from pipeline.data import load
from pipeline.networks import create_network
from pipeline.params import Model

TINY = "test_resnet"


@pytest.fixture
def weights_file(tmp_path: Path) -> str:
    path = tmp_path / "w.pth"
    torch.save(zoo.create(TINY, 5).state_dict(), path)
    return str(path)


def test_a_random_start_uses_the_normalisation_of_the_images(prepared: Path) -> None:
    images = load(prepared)
    _, spec, normalised = create_network(Model(name=TINY), images)
    assert (spec.mean, spec.std) == (normalised.mean, normalised.std) == (images.mean, images.std)
    assert spec.initial_weights == "random"


def test_a_start_from_a_file_uses_the_normalisation_of_the_published_weights(
    prepared: Path, weights_file: str
) -> None:
    model, spec, images = create_network(Model(name=TINY, weights=weights_file), load(prepared))
    published = zoo.normalisation(model, 1)
    assert (spec.mean, spec.std) == (images.mean, images.std) == published
    assert spec.initial_weights.startswith(f"{weights_file} (sha256 ")
    assert (spec.num_classes, spec.in_chans) == (10, 1)


def test_the_seed_decides_the_new_classifier_wherever_the_rest_is_from(
    prepared: Path, weights_file: str
) -> None:
    images = load(prepared)
    torch.manual_seed(3)
    random, _, _ = create_network(Model(name=TINY), images)
    torch.manual_seed(3)
    started, _, _ = create_network(Model(name=TINY, weights=weights_file), images)
    assert torch.equal(random.fc.weight, started.fc.weight)
    assert not torch.equal(random.layer1[0].conv1.weight, started.layer1[0].conv1.weight)
