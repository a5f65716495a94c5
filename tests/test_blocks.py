"""Block discovery on architectures of different families, and on plain modules."""

import pytest
import torch
from torch import Tensor, nn

from models.blocks import find_blocks
from models.errors import ShoalError
from models.zoo import create


def removable(model: nn.Module, *shape: int) -> list[str]:
    return [block.name for block in find_blocks(model, torch.zeros(2, *shape)) if block.removable]


@pytest.mark.parametrize(
    ("name", "size", "blocks", "removable_blocks"),
    [
        ("resnet18_cifar", 32, 8, 5),
        ("resnet18", 64, 8, 5),
        ("mobilenetv2_cifar", 32, 17, 10),
        ("efficientnet_b0", 64, 16, 9),
        ("convnext_atto", 64, 12, 12),
        ("vit_tiny_patch16_224", 224, 12, 12),
        ("swin_tiny_patch4_window7_224", 224, 12, 12),
        ("poolformer_s12", 64, 12, 12),
    ],
)
def test_blocks_of_each_family(name: str, size: int, blocks: int, removable_blocks: int) -> None:
    found = find_blocks(create(name, 10), torch.zeros(2, 3, size, size))
    assert len(found) == blocks
    assert sum(block.removable for block in found) == removable_blocks
    for block in found:
        assert block.removable == (block.in_shape == block.out_shape)
        assert bool(block.reason) != block.removable


def test_the_authors_resnet_in_order_with_shapes_and_reasons() -> None:
    found = find_blocks(create("resnet18_cifar", 10), torch.zeros(2, 3, 32, 32))
    assert [b.name for b in found] == [f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)]
    assert found[1].in_shape == (64, 16, 16)
    assert found[2].reason == "changes shape (64, 16, 16) to (128, 8, 8)"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return x + self.linear(x if other is None else other)


class Merge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.linear(torch.cat([x, other], dim=1))


class Pair(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + self.linear(x), 4


class Wired(nn.Module):
    """Blocks in a list: one plain, one called twice, one never, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.ones(4))
        self.blocks = nn.ModuleList([Residual() for _ in range(5)] + [Merge(), Pair(), Residual()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x = self.blocks[1](self.blocks[1](x))
        x = self.blocks[3](x, other=self.positions)  # does not depend on the images
        x = self.blocks[4](x, x * 2)
        x = self.blocks[5](x, x * 2)
        x, _ = self.blocks[6](x)
        return self.blocks[7](x=x)


def test_a_plain_module_without_a_description_and_every_reason() -> None:
    found = {b.name: b.reason for b in find_blocks(Wired(), torch.zeros(2, 4))}
    assert found == {
        "blocks.0": "",
        "blocks.1": "called 2 times in a forward pass",
        "blocks.2": "called 0 times in a forward pass",
        "blocks.3": "",
        "blocks.4": "",  # the skip connection runs from the first of the two tensors
        "blocks.5": "2 tensors enter and 1 leave",
        "blocks.6": "returns a tuple",
        "blocks.7": "the activation is not its first argument",
    }


def test_the_network_is_left_as_it_was() -> None:
    model = create("resnet18_cifar", 10, width=8).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    find_blocks(model, torch.randn(4, 3, 32, 32))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_images_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShoalError, match=r"images of shape \(3, 32, 32\).*img_size"):
        removable(create("vit_tiny_patch16_224", 10), 3, 32, 32)
