"""Block discovery on architectures of different families, and on plain modules."""

import pytest
import torch
import torchvision
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
        ("cait_xxs24_224", 224, 24, 24),  # timm describes its structure by a function
        ("convmixer_768_32", 64, 32, 32),
        ("cs3darknet_focus_s", 64, 9, 9),  # lists in stages in a list
        ("davit_tiny", 64, 12, 12),  # two kinds of block take turns
        ("dla46x_c", 64, 12, 8),  # a tree
        ("eva02_tiny_patch14_224", 224, 12, 12),  # positions enter each block
        ("gcvit_xxtiny", 224, 22, 22),  # and here a query made from the images
        ("hrnet_w18_small", 64, 19, 18),  # branches side by side
        ("inception_v3", 96, 9, 6),  # no skip connections, no lists
        ("mobilevit_xxs", 64, 16, 12),  # transformers inside convolutional blocks
        ("mvitv2_tiny", 224, 10, 0),  # every block returns a tuple
        ("pit_ti_224", 224, 12, 12),  # no description
        ("pvt_v2_b0", 64, 8, 8),  # described by stages only
        ("regnetx_002", 64, 13, 9),  # numbered by name, without a list
        ("repvit_m1", 64, 20, 20),  # every other block scales between two skip connections
        ("tiny_vit_5m_224", 64, 12, 12),  # a convolution between the two skip connections
        ("xcit_nano_12_p8_224", 224, 14, 14),  # 12, and 2 of class attention
    ],
)
def test_blocks_of_each_family(name: str, size: int, blocks: int, removable_blocks: int) -> None:
    found = find_blocks(create(name, 10), torch.zeros(2, 3, size, size))
    assert len(found) == blocks
    assert sum(block.removable for block in found) == removable_blocks
    for block in found:
        assert not block.removable or block.in_shape == block.out_shape != ()
        assert bool(block.reason) != block.removable


@pytest.mark.parametrize(
    ("name", "blocks", "removable_blocks"),
    [
        ("mobilenet_v2", 17, 10),
        ("efficientnet_b0", 16, 9),
        ("swin_t", 12, 12),
        ("convnext_tiny", 18, 18),
        ("shufflenet_v2_x0_5", 16, 13),  # joins halves: no skip connection
    ],
)
def test_networks_that_do_not_describe_themselves(
    name: str, blocks: int, removable_blocks: int
) -> None:
    model = getattr(torchvision.models, name)(weights=None)
    found = find_blocks(model, torch.zeros(2, 3, 64, 64))
    assert len(found) == blocks
    assert sum(block.removable for block in found) == removable_blocks


def test_the_layers_of_a_network_without_blocks() -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    found = find_blocks(nn.Sequential(nn.Sequential(*layers)), torch.zeros(2, 3, 8, 8))
    assert [(block.name, block.removable) for block in found] == [("0.0", False), ("0.2", True)]


def test_the_authors_resnet_in_order_with_shapes_and_reasons() -> None:
    found = find_blocks(create("resnet18_cifar", 10), torch.zeros(2, 3, 32, 32))
    assert [b.name for b in found] == [f"layer{i}.{j}" for i in range(1, 5) for j in (0, 1)]
    assert found[1].in_shape == (64, 16, 16)
    assert found[2].reason == "changes shape (64, 16, 16) to (128, 8, 8)"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, other: Tensor | None = None, skip: bool = True) -> Tensor:
        new = self.linear(x if other is None else other)
        return x + new if skip else new


class Pair(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + self.linear(x), 4


class Wired(nn.Module):
    """Blocks in a list: one plain, one called twice, one never, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.ones(4))
        self.blocks = nn.ModuleList([Residual() for _ in range(6)] + [Pair(), Residual()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x = self.blocks[1](self.blocks[1](x))
        x = self.blocks[3](x, other=self.positions)  # does not depend on the images
        x = self.blocks[4](x, x * 2)
        x = self.blocks[5](x, x * 2, skip=False)
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


def test_images_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShoalError, match=r"images of shape \(3, 32, 32\).*img_size"):
        removable(create("vit_tiny_patch16_224", 10), 3, 32, 32)
