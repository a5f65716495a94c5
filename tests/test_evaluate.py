"""Accuracy, and batch-norm statistics re-estimated."""

import torch
from torch import nn

from models.zoo import create
from pipeline.evaluate import accuracy_pct, reestimate_batch_norm


def test_accuracy_counts_images_not_batches() -> None:
    images = torch.eye(4)[:, :, None, None]
    batches = [(images[:3], torch.tensor([0, 1, 0])), (images[3:], torch.tensor([3]))]
    assert accuracy_pct(lambda x: x.flatten(1), batches) == 75


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


def test_weights_stay_and_networks_without_batch_norm_too() -> None:
    for name in ("resnet18_cifar", "vit_tiny_patch16_224"):
        options = {"img_size": 32} if name.startswith("vit") else {"width": 8}
        model = create(name, 10, **options)
        before = [p.clone() for p in model.parameters()]
        reestimate_batch_norm(
            model, [(torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))]
        )
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
