"""Networks and images that fit each other."""

import dataclasses
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from models import zoo
from models.errors import ParamsError, WeightsError
from pipeline.core.params import Model
from pipeline.data.dataset import load
from pipeline.train.initial_network import create_network

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


def test_shoals_own_weights_come_with_their_normalisation(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = load(prepared)
    model, spec, _ = create_network(Model(name=TINY), images)
    dark = dataclasses.replace(spec, mean=[0.029], std=[0.017])
    (tmp_path / "own").mkdir()
    zoo.save(tmp_path / "own", dark, model)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "own/weights.safetensors")
    assert capsys.readouterr().out == ""  # a random start takes the images' own
    for file in ("own/weights.safetensors", "link.safetensors"):
        wanted = Model(name=TINY, weights=str(tmp_path / file))
        _, again, normalised = create_network(wanted, images)
        assert (again.mean, again.std) == (normalised.mean, normalised.std) == ([0.029], [0.017])
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith(f"{TINY}: images are normalised by mean [0.029], std [0.017] of ")
        assert said.endswith("model.json")


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        ("auto", "the architecture's published weights"),
        ("published", "the architecture's published weights"),
        ("images", "the images"),
        ({"mean": [0.5], "std": [0.25]}, "model.normalisation"),
    ],
)
def test_for_other_files_a_setting_decides_and_a_line_says_so(
    prepared: Path, weights_file: str, capsys: pytest.CaptureFixture, wanted: object, source: str
) -> None:
    images = load(prepared)
    settings = Model.model_validate(
        {"name": TINY, "weights": weights_file, "normalisation": wanted}
    )
    model, spec, _ = create_network(settings, images)
    values = {
        "the images": (images.mean, images.std),
        "model.normalisation": ([0.5], [0.25]),
    }.get(source, zoo.normalisation(model, 1))
    assert (spec.mean, spec.std) == values
    assert capsys.readouterr().out.endswith(f" of {source}\n")


def test_a_normalisation_that_cannot_be_is_named(
    prepared: Path, weights_file: str, tmp_path: Path
) -> None:
    images = load(prepared)
    three = {"mean": [0.5] * 3, "std": [0.2] * 3}
    for wanted, message in (
        (three, "has 3 means and 3 deviations, and the images have 1 channels"),
        ("ours", "'auto', 'published', 'images', or"),
        (3, "'auto', 'published', 'images', or"),
    ):
        with pytest.raises((ParamsError, ValidationError), match=message):
            create_network(
                Model.model_validate(
                    {"name": TINY, "weights": weights_file, "normalisation": wanted}
                ),
                images,
            )
    Path(weights_file).with_name("model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"model\.json is to say .*take it away, or set"):
        create_network(Model(name=TINY, weights=weights_file), images)
    create_network(Model(name=TINY, weights=weights_file, normalisation="images"), images)


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
