"""Initial weights: read without running code, and loaded whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stage_process import ROOT, run_stage
from torch import nn

from models import zoo
from models.errors import WeightsError
from models.saving import tensors_sha256
from models.weights import Weights, load_into, read_weights, state_sha256


def small(num_classes: int = 5, in_chans: int = 3, **options: object) -> nn.Module:
    return zoo.create("test_resnet", num_classes, in_chans=in_chans, **options)


def equal(a: nn.Module, b: nn.Module, but: str = "\0") -> bool:
    """Whether two networks have the same tensors, those under the name `but` left out."""
    theirs = b.state_dict()
    return all(
        torch.equal(value, theirs[key])
        for key, value in a.state_dict().items()
        if not key.startswith(but)
    )


@pytest.fixture
def saved() -> nn.Module:
    """A network whose every tensor, counters and running statistics too, tells it from others."""
    torch.manual_seed(1)
    model = small()
    model(torch.randn(4, 3, 32, 32))
    return model


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.safetensors", lambda model, path: save_file(model.state_dict(), path)),
        ("w.pth", lambda model, path: torch.save(model.state_dict(), path)),
        ("w.tar", lambda model, path: torch.save({"epoch": 3, "model": model.state_dict()}, path)),
    ],
)
def test_every_tensor_of_a_file_arrives(saved, tmp_path, name, write) -> None:
    write(saved, tmp_path / name)
    model = small()
    assert not equal(model, saved)
    assert load_into(model, read_weights(tmp_path / name), 3) == []
    assert equal(model, saved)
    assert state_sha256(model) == state_sha256(saved)


def test_digests_stay_what_they_were() -> None:
    """Files and checkpoints of earlier versions are known by them."""
    tensors = {
        "b": torch.arange(6.0).reshape(2, 3).t(),
        "a": torch.tensor(3),
        "c": torch.ones(2, 2).bfloat16(),
        "d": torch.zeros(0),
    }
    model = nn.Module()
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor)
    assert state_sha256(model) == "1ef7939846b573cb418db44c6176d02c5625963693fd8c0b8f02df35f6409e58"
    assert (
        tensors_sha256(tensors, {"axes": "{}"})
        == "3be373dce6e1eb0442f991cde9137d52c3424b53c2aa59bf150b92478cef328d"
    )


def test_what_shoal_saves_can_be_started_from(tmp_path) -> None:
    model = zoo.create("resnet18_cifar", 3, in_chans=1, width=8)
    spec = zoo.ModelSpec("resnet18_cifar", 3, 1, 32, [0.5], [0.2], ["a", "b", "c"], {"width": 8})
    zoo.save(tmp_path, spec, model)
    weights = read_weights(tmp_path / "weights.safetensors")
    assert equal(zoo.create("resnet18_cifar", 3, in_chans=1, width=8, weights=weights), model)


def test_only_the_classifier_is_new_for_another_number_of_classes(saved, capsys) -> None:
    model = zoo.create("test_resnet", 7, weights=Weights(saved.state_dict(), "a file"))
    assert equal(saved, model, but="fc.")
    assert model.fc.weight.shape[0] == 7
    assert capsys.readouterr().out == (
        "test_resnet: starts from a file; classifier of 5 classes replaced by a new one of 7\n"
    )


@pytest.mark.parametrize("name", ["resnet18_cifar", "test_vit", "test_efficientnet"])
def test_grey_images_get_the_sum_over_the_channels(name: str) -> None:
    options = {"img_size": 32} if name == "test_vit" else {}
    torch.manual_seed(0)
    colour = zoo.create(name, 4, **options).eval()
    weights = Weights(colour.state_dict(), "a file")
    grey = zoo.create(name, 4, in_chans=1, weights=weights, **options).eval()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_colour_images_can_start_from_grey_weights() -> None:
    grey = small(in_chans=1).eval()
    colour = small(weights=Weights(grey.state_dict(), "a file")).eval()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), grey(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:timm")  # of its interpolation
def test_position_embeddings_are_made_for_another_image_size() -> None:
    large = zoo.create("test_vit", 4, img_size=64)
    model = zoo.create("test_vit", 4, img_size=32, weights=Weights(large.state_dict(), "a file"))
    assert model.pos_embed.shape[1] < large.pos_embed.shape[1]
    assert equal(model, large, but="pos_embed")


def test_batch_counters_may_be_missing_as_in_old_files(saved) -> None:
    state = {k: v for k, v in saved.state_dict().items() if "num_batches_tracked" not in k}
    model = small()
    load_into(model, Weights(state, "an old file"), 3)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_misnamed_tensor_is_shown_with_its_near_match(saved) -> None:
    state = {k.replace("layer1.0.bn1", "layer1.0.bn_1"): v for k, v in saved.state_dict().items()}
    expected = r"missing: 'layer1.0.bn1.weight' \(there is 'layer1.0.bn_1.weight'\).*unexpected"
    with pytest.raises(WeightsError, match=expected):
        load_into(small(), Weights(state, "a file"), 3)


@pytest.mark.parametrize("name", ["test_resnet", "dla34"])  # timm itself is not strict with the 2nd
def test_a_missing_tensor_is_an_error_even_where_the_classes_differ(name: str) -> None:
    state = zoo.create(name, 5).state_dict()
    del state[next(key for key in state if key.endswith("bn2.weight"))]
    with pytest.raises(WeightsError, match="1 missing: 'l"):
        zoo.create(name, 7, weights=Weights(state, "a file"))


def test_an_unexpected_tensor_is_an_error(saved) -> None:
    state = saved.state_dict() | {"extra.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 unexpected: 'extra\.weight'"):
        load_into(small(), Weights(state, "a file"), 3)


def test_a_missing_classifier_is_an_error(saved) -> None:
    state = {k: v for k, v in saved.state_dict().items() if not k.startswith("fc.")}
    with pytest.raises(WeightsError, match=r"'fc\.weight'"):
        load_into(small(num_classes=7), Weights(state, "a file"), 3)


def test_another_width_is_an_error_that_shows_shapes() -> None:
    state = zoo.create("resnet18_cifar", 5, width=16).state_dict()
    expected = r"conv1\.weight is \(16, 3, 3, 3\) and should be \(8, 3, 3, 3\).*model\.options"
    with pytest.raises(WeightsError, match=expected):
        zoo.create("resnet18_cifar", 5, width=8, weights=Weights(state, "a file"))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"conv.weight": Hostile(f"touch {tmp_path}/ran")},
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(WeightsError, match=r"cannot be read: [^.]*posix\.system.*safetensors"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", torch.zeros(3), "hold no state dict"),
        ("w.pth", [1, 2], "hold no state dict"),
        ("w.pth", {"epoch": 3}, "'epoch' is of type int"),
        ("w.pth", {}, "no key"),
        ("w.pth", nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, name, content, message) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"{name}.*{message}.*a state dict of tensors alone"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_damaged_file_is_named(saved, tmp_path, name, kept) -> None:
    path = tmp_path / name
    save_file(saved.state_dict(), path) if "safe" in name else torch.save(saved.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=rf"{name}.*a state dict of tensors alone"):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth: there is no such file; correct model\."):
        read_weights(tmp_path / "nowhere.pth")


def test_the_digest_sees_one_changed_bit(saved) -> None:
    before = state_sha256(saved)
    with torch.no_grad():
        value = saved.fc.bias[0].clone()
        saved.fc.bias[0] = torch.nextafter(value, value + 1)
    assert state_sha256(saved) != before


def test_the_train_stage_records_what_it_started_from(tmp_path: Path, prepared: Path) -> None:
    start = zoo.create("resnet18_cifar", 10, in_chans=1, width=8)
    torch.save(start.state_dict(), tmp_path / "start.pth")
    params = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["epochs"] = 1
    params["variants"]["dense"] = {"model": {"weights": "start.pth"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(prepared, tmp_path / "artifacts" / "prepare")
    (tmp_path / "metrics").mkdir()
    shutil.copy(prepared / "manifest.json", tmp_path / "metrics" / "prepare.json")
    nowhere = "http://127.0.0.1:1"  # no server: nothing is tracked
    result = run_stage("train", "dense", cwd=tmp_path, MLFLOW_TRACKING_URI=nowhere)
    assert result.returncode == 0, result.stderr
    initial = json.loads((tmp_path / "metrics" / "train" / "dense.json").read_text())
    origin = read_weights(tmp_path / "start.pth").origin.removeprefix(f"{tmp_path}/")
    assert initial["initial_weights"] == {"origin": origin, "sha256": state_sha256(start)}
    assert zoo.load(tmp_path / "artifacts" / "train" / "dense")[1].initial_weights == origin
