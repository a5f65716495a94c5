"""Creating networks by name, and keeping trained ones."""

import json
import re

import pytest
import torch
from torch import nn

from models import zoo
from models.cost import count_parameters
from models.errors import ArtifactError, ShoalError, UnknownModelError

SPEC = zoo.ModelSpec(
    *("resnet18_cifar", 3, 1, 32, [0.5], [0.25], ["a", "b", "c"]), options={"width": 8}
)


def small() -> nn.Module:
    return zoo.create("resnet18_cifar", 3, in_chans=1, width=8).eval()


@pytest.mark.parametrize("name", ["resnet18_cifar", "mobilenetv2_cifar", "mobilenetv3_small_050"])
def test_any_name_gives_a_classifier_of_the_asked_shape(name: str) -> None:
    model = zoo.create(name, 7, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_golden_parameters_of_the_authors_mobilenet() -> None:
    assert count_parameters(zoo.create("mobilenetv2_cifar", 10)) == 2_236_682


def test_an_unknown_model_is_named_with_near_matches() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'resnet18_cifra'.*'resnet18_cifar'"):
        zoo.create("resnet18_cifra", 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18_cifar", {"depth": 3}),
        ("resnet18_cifar", {"width": -1}),
        ("resnet18_cifar", {"width": 1.5}),
        ("resnet18", {"depth": 3}),
        ("resnet18", {"act_layer": "foo"}),
        ("resnet18", {"output_stride": 5}),
    ],
)
def test_an_option_that_does_not_fit_is_named(name: str, options: dict) -> None:
    expected = f"model {name!r} cannot be created with the options {options}"
    with pytest.raises(ShoalError, match=re.escape(expected)):
        zoo.create(name, 10, **options)


def test_the_cifar_variants_have_no_published_weights() -> None:
    with pytest.raises(ShoalError, match="pretrained: false"):
        zoo.create("resnet18_cifar", 10, pretrained=True)


def test_published_normalisation_is_that_of_the_weights_averaged_for_grey_images() -> None:
    model = zoo.create("resnet18", 10)
    assert zoo.normalisation(model, 3) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std = zoo.normalisation(model, 1)
    assert (mean, std) == ([pytest.approx(0.449)], [pytest.approx(0.226)])
    assert zoo.normalisation(small(), 1) is None  # it has no published weights


def test_a_saved_network_comes_back_the_same(tmp_path) -> None:
    model = small()
    zoo.save(tmp_path, SPEC, model)
    loaded, description = zoo.load(tmp_path)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded(x), model(x))
    assert description == SPEC
    assert description.example(4).shape == (4, 1, 32, 32)


def test_tied_weights_are_kept(tmp_path) -> None:
    model = small()
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight
    zoo.save(tmp_path, SPEC, model)
    loaded, _ = zoo.load(tmp_path)
    assert torch.equal(loaded.layer1[1].conv1.weight, model.layer1[0].conv1.weight)


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    zoo.save(tmp_path, SPEC, small())
    (tmp_path / "model.json").write_text(json.dumps(vars(SPEC) | {"options": {"width": 16}}))
    with pytest.raises(ArtifactError, match="no usable network"):
        zoo.load(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.json is missing"):
        zoo.load(tmp_path)
    zoo.save(tmp_path, SPEC, small())
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="train it again"):
        zoo.load(tmp_path)
