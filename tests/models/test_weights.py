"""Initial weights: read without running code, and loaded whole or not at all."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import zoo
from models.errors import WeightsError
from models.weights.loading import Weights, load_into, read_weights, state_sha256
from models.weights.saving import tensors_sha256


def small(num_classes: int = 5, in_chans: int = 3, **options: object) -> nn.Module:
    return zoo.create("test_resnet", num_classes, in_chans=in_chans, **options)


def equal(a: nn.Module, b: nn.Module, but: str = "\0") -> bool:
    """Whether two networks have the same tensors, without those under the name `but`."""
    theirs = b.state_dict()
    return all(
        torch.equal(value, theirs[key])
        for key, value in a.state_dict().items()
        if not key.startswith(but)
    )


@pytest.fixture
def saved() -> nn.Module:
    """A network whose every tensor, counters and running statistics too, is its own."""
    torch.manual_seed(1)
    model = small()
    model(torch.randn(4, 3, 32, 32))
    return model


@pytest.mark.parametrize(
    ("name", "write", "changes"),
    [
        ("w.safetensors", save_file, []),
        ("w.pth", torch.save, []),
        *(
            (f"{key}.tar", wrapped, [f"its '{key}' is taken"])
            for key in ("model", "state_dict", "model_state_dict", "net", "weights", "mine")
            for wrapped in [
                lambda state, path, key=key: torch.save({"epoch": 3, key: state, "o": {}}, path)
            ]
        ),
        (
            "lightning.ckpt",
            lambda state, path: torch.save({"state_dict": prefixed(state, "model.")}, path),
            ["its 'state_dict' is taken", "prefix 'model.' taken off"],
        ),
        (
            "with_a_loss.ckpt",
            lambda state, path: torch.save(
                prefixed(state, "model.") | {"loss.weight": torch.ones(5)}, path
            ),
            ["prefix 'model.' taken off, 1 tensors without it left out"],
        ),
        (
            "compiled_ddp.pth",
            lambda state, path: torch.save(prefixed(state, "module._orig_mod."), path),
            ["prefix 'module._orig_mod.' taken off"],
        ),
        (
            "averaged.pth",
            lambda state, path: torch.save({"model": {}, "ema": {"module": state}}, path),
            ["its 'module' is taken"],
        ),
        (
            "double.pth",
            lambda state, path: torch.save({k: v.double() for k, v in state.items()}, path),
            [],  # counters too: 3.0
        ),
    ],
)
def test_every_tensor_of_a_file_arrives(saved, tmp_path, name, write, changes) -> None:
    write(saved.state_dict(), tmp_path / name)
    model = small()
    assert not equal(model, saved)
    assert load_into(model, read_weights(tmp_path / name), 3) == changes
    assert equal(model, saved)
    assert state_sha256(model) == state_sha256(saved)


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def test_numbers_of_numpy_and_arguments_beside_the_tensors_do_no_harm(saved, tmp_path) -> None:
    best = {"accuracy": np.float64(93.1), "epoch": np.int64(3), "curve": np.arange(3.0)}
    arguments = argparse.Namespace(lr=np.float32(0.1))
    kept = {"state_dict": saved.state_dict(), "best": best, "args": arguments, "ok": np.bool_(True)}
    torch.save(kept, tmp_path / "w.pth")
    named = (tmp_path / "w.pth").read_bytes()
    assert b"multiarray" in named
    model = small()
    load_into(model, read_weights(tmp_path / "w.pth"), 3)
    assert equal(model, saved)


def test_a_network_that_is_there_twice_is_not_chosen_from(saved) -> None:
    state = saved.state_dict()
    for first in ("", "model."):
        twice = prefixed(state, first) | prefixed(state, "ema.")
        with pytest.raises(WeightsError, match=rf"more than once, under '{first}', 'ema\.'; save"):
            load_into(small(), Weights(twice, "a file"), 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.mul(100).to(torch.int8), "is of type torch.int8 and the network's of"),
        (lambda t: t > 0, "is of type torch.bool"),
        (lambda t: t.to(torch.complex64), "is of type torch.complex64"),
        (lambda t: t.mul(100).to(torch.uint8), "is of type torch.uint8"),
        (lambda t: t.where(t != t.max(), torch.nan), r"holds values that are not finite in"),
        (lambda t: t.where(t != t.max(), -torch.inf), r"holds values that are not finite in"),
        (lambda t: t.double() * 1e300, r"holds values that are not finite in torch\.float32"),
    ],
)
@pytest.mark.parametrize("name", ["layer1.0.bn1.running_var", "layer1.0.conv1.weight"])
def test_numbers_that_are_none_or_of_another_kind_are_refused(saved, name, change, why) -> None:
    state = saved.state_dict()
    state[name] = change(state[name])
    with pytest.raises(WeightsError, match=rf"weights a file: {name} {why}"):
        load_into(small(), Weights(state, "a file"), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_taken(saved, dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in saved.state_dict().items()}
    model = small()
    assert load_into(model, Weights(state, "a file"), 3) == []
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


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


@pytest.mark.parametrize(
    ("name", "saved_channels", "channels"),
    [
        ("resnet18_cifar", 3, 1),
        ("test_vit", 3, 1),
        ("test_efficientnet", 3, 1),
        ("test_resnet", 1, 3),
    ],
)
def test_the_stem_is_summed_or_repeated_over_the_image_channels(
    name: str, saved_channels: int, channels: int
) -> None:
    options = {"img_size": 32} if name == "test_vit" else {}
    torch.manual_seed(0)
    before = zoo.create(name, 4, in_chans=saved_channels, **options).eval()
    weights = Weights(before.state_dict(), "a file")
    after = zoo.create(name, 4, in_chans=channels, weights=weights, **options).eval()
    x = torch.randn(2, 1, 32, 32)
    grey = (x.expand(-1, n, -1, -1) for n in (channels, saved_channels))
    torch.testing.assert_close(after(next(grey)), before(next(grey)), rtol=1e-4, atol=1e-5)


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


def renamed(state: dict, old: str, new: str) -> dict:
    return {key.replace(old, new): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: renamed(s, "0.bn1.w", "0.bn_1.w"), r'Missing .*"layer1\.0\.bn1\.weight".*bn_1'),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, r'Unexpected key.*"extra\.weight"'),
        (lambda s: {k: v for k, v in s.items() if "fc." not in k}, r'Missing .*"fc\.weight"'),
        (lambda s: s | {"conv1.0.weight": s["fc.weight"]}, r"size mismatch .*conv1\.0\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_the_fix(saved, change, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"a file do not fit.*{message}.*; set model\.name and"):
        load_into(small(num_classes=7), Weights(change(saved.state_dict()), "a file"), 3)


@pytest.mark.parametrize("name", ["test_resnet", "dla34"])  # timm itself is not strict with the 2nd
def test_a_missing_tensor_is_an_error_even_where_the_classes_differ(name: str) -> None:
    state = zoo.create(name, 5).state_dict()
    del state[next(key for key in state if key.endswith("bn2.weight"))]
    with pytest.raises(WeightsError, match=r"Missing key\(s\) in state_dict: \"l"):
        zoo.create(name, 7, weights=Weights(state, "a file"))


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
