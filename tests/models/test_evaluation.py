"""Accuracy, and batch-norm statistics re-estimated."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.batch_norm import batch_norms, reestimate_batch_norm
from models.evaluation import correct_and_total
from models.zoo import create


def test_accuracy_counts_images_not_batches() -> None:
    images = torch.eye(4)[:, :, None, None]
    batches = [(images[:3], torch.tensor([0, 1, 0])), (images[3:], torch.tensor([3]))]
    assert correct_and_total(lambda x: x.flatten(1), batches) == (3, 4)


def test_statistics_become_those_of_the_data() -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(512, 5, 4, 4)
    model = nn.Sequential(nn.BatchNorm2d(5), nn.Dropout(0.5))
    reestimate_batch_norm(
        model, ((part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(128))
    )
    norm = model[0]
    torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var(dim=(0, 2, 3)), rtol=0.01, atol=0)
    assert not any(module.training for module in model.modules())
    assert norm.momentum == 0.1


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.integers(0, 2**20))
def test_batches_of_any_size_give_what_one_batch_of_all_gives(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.rand(sum(sizes), 1, 1, 1, generator=generator) * 200
    images = brightness + torch.rand(sum(sizes), 3, 6, 6, generator=generator) * 55
    norms = []
    for parts in (images.split(sizes), [images]):
        model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
        reestimate_batch_norm(model, ((part, torch.zeros(len(part)).long()) for part in parts))
        norms.append(model[0])
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var, rtol=0.02, atol=0)


@pytest.mark.parametrize("n", [514, 258])
def test_a_last_batch_of_two_images_weighs_two_images(n: int) -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 3, in_chans=1, width=8)
    images = torch.rand(n, 1, 1, 1) * 200 + torch.rand(n, 1, 32, 32) * 55
    networks = [copy.deepcopy(model) for _ in range(2)]
    for network, size in zip(networks, (256, n), strict=True):
        batches = ((part / 255, torch.zeros(len(part)).long()) for part in images.split(size))
        reestimate_batch_norm(network, batches)
    for split, whole in zip(*map(batch_norms, networks), strict=True):
        torch.testing.assert_close(split.running_var, whole.running_var, rtol=0.05, atol=1e-3)


def test_a_norm_that_is_called_twice_counts_both_calls() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    x = torch.randn(64, 3, 4, 4)
    reestimate_batch_norm(model, [(x, torch.zeros(64).long())])
    with torch.no_grad():
        twice = torch.cat([x, torch.relu(nn.functional.batch_norm(x, None, None, training=True))])
    torch.testing.assert_close(norm.running_mean, twice.mean(dim=(0, 2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(norm.running_var, twice.var(dim=(0, 2, 3)), rtol=0.01, atol=0)


def test_weights_stay_and_networks_without_batch_norm_too() -> None:
    for name in ("resnet18_cifar", "vit_tiny_patch16_224"):
        options = {"img_size": 32} if name.startswith("vit") else {"width": 8}
        model = create(name, 10, **options)
        before = [p.clone() for p in model.parameters()]
        reestimate_batch_norm(
            model, [(torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))]
        )
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
