"""Replacements in closed form: against least squares, exact where they can be, never worse."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.errors import ArtifactError
from models.replacement.fitting import FITS, KINDS, cheapest, fit
from models.replacement.modules import ChannelMap, load, save
from models.surgery import bypass


class Linear(nn.Module):
    """A block that is a map of the channels: x + V x + c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def chain(depth: int, block: type[nn.Module] = Linear) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), *(block(5) for _ in range(depth)), nn.Flatten(), nn.Linear(180, 4)
    ).eval()


def images(n: int = 40) -> list[Tensor]:
    return list(torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)).split(16))


def test_a_block_that_is_a_map_of_the_channels_is_replaced_exactly() -> None:
    model = chain(3)
    replacements = fit(model, ["2", "1"], "linear", iter(images()))
    shallow = bypass(model, ["1", "2"], replacements)
    x = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(shallow(x), model(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bypass(model, ["1", "2"])(x), model(x), atol=0.1)


class Curved(nn.Module):
    """A block that is no map of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


def test_the_fit_is_least_squares_on_what_reaches_the_block() -> None:
    model = chain(2, Curved)
    replacements = fit(model, ["1", "2"], "linear", iter(images()))
    batch = torch.cat(images())
    with torch.no_grad():
        x = replacements["1"](model[0](batch))  # what reaches block 2 once block 1 is replaced
        y = model[:3](batch)
    rows_x, rows_y = (t.movedim(1, -1).reshape(-1, 5).double().numpy() for t in (x, y))
    with_one = np.hstack([rows_x, np.ones((len(rows_x), 1))])
    solution, *_ = np.linalg.lstsq(with_one, rows_y, rcond=None)
    np.testing.assert_allclose(replacements["2"].weight.detach(), solution[:5].T, atol=1e-4)
    np.testing.assert_allclose(replacements["2"].bias.detach(), solution[5], atol=1e-4)


def test_every_richer_kind_fits_at_least_as_well() -> None:
    model = chain(1, Curved)
    batch = torch.cat(images())
    with torch.no_grad():
        x, y = model[0](batch), model[:2](batch)
        errors = [torch.mean((y - x) ** 2)]
        for kind in FITS:
            errors.append(torch.mean((y - fit(model, ["1"], kind, images())["1"](x)) ** 2))
    assert [a > b for a, b in itertools.pairwise(errors)] == [True] * 3


def test_channels_that_never_vary_are_left_as_they_are() -> None:
    model = chain(1, Curved)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.1  # its mean and variance are rounded
    for kind in FITS:
        replacement = fit(model, ["1"], kind, images())["1"]
        if replacement.weight is not None:
            weight = (
                replacement.weight
                if replacement.weight.ndim == 1
                else replacement.weight.diagonal()
            )
            assert weight[2].item() == pytest.approx(1.0, abs=1e-3), kind


def test_features_that_are_all_constant_are_left_as_they_are() -> None:
    model = chain(1, Curved)
    with torch.no_grad():
        model[0].weight.zero_()
    for kind in FITS:
        replacement = fit(model, ["1"], kind, images())["1"]
        x = model[0](images()[0])
        moved = replacement(x + 1) - replacement(x)
        torch.testing.assert_close(moved, torch.ones_like(x), atol=1e-3, rtol=0)


@given(
    st.fixed_dictionaries({kind: st.floats(0, 100) for kind in KINDS}),
    st.floats(0, 5),
)
def test_the_cheapest_is_near_the_best_and_no_cheaper_one_is(
    accuracies: dict[str, float], slack: float
) -> None:
    kind = cheapest(accuracies, slack)
    floor = max(accuracies.values()) - slack - 1e-9
    assert accuracies[kind] >= floor
    assert all(accuracies[cheaper] < floor for cheaper in KINDS[: KINDS.index(kind)])


def test_replacements_survive_the_disk_and_damage_is_reported(tmp_path: Path) -> None:
    replacements = {
        "a.b": ChannelMap(torch.randn(4, 4), torch.randn(4), 1),
        "c": ChannelMap(None, torch.randn(4), 3),
    }
    save(replacements, tmp_path / "some.safetensors")
    loaded = load(tmp_path / "some.safetensors")
    assert list(loaded) == ["a.b", "c"]
    x = torch.randn(2, 4, 4, 4)
    for name, replacement in replacements.items():
        assert torch.equal(loaded[name](x), replacement(x))
    (tmp_path / "some.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match=r"some.safetensors is damaged .*dvc repro"):
        load(tmp_path / "some.safetensors")
    with pytest.raises(ArtifactError, match="is missing"):
        load(tmp_path / "other.safetensors")
