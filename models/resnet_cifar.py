"""The LaCoOT authors' ResNet for CIFAR (arXiv 2406.08933): basic blocks behind a small stem.

Unlike the ResNet of He et al. for CIFAR it keeps the 3×3/2 max-pool, so 32×32 images reach the
first block at 16×16: 140.19 MMACs at width 64.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a 1×1 projection where the shape changes."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_width, h, w) to (n, width, h/stride, w/stride)."""
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.act(y + self.shortcut(x))
        return out


class ResNetCifar(nn.Module):
    """Four stages of basic blocks at width, 2·width, 4·width and 8·width channels."""

    pretrained_cfg: ClassVar[dict[str, str]] = {
        "first_conv": "conv1",
        "classifier": "fc",
    }  # as timm

    def __init__(
        self, depths: Sequence[int], num_classes: int, in_chans: int = 3, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, depths[0], stride=1)
        self.layer2 = _stage(width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(4 * width, 8 * width, depths[3], stride=2)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_chans, h, w) to logits (n, num_classes)."""
        x = self.pool(self.act(self.bn1(self.conv1(x))))  # (n, width, h/2, w/2)
        x = self.layer1(x)
        x = self.layer2(x)  # (n, 2·width, h/4, w/4)
        x = self.layer3(x)  # (n, 4·width, h/8, w/8)
        x = self.layer4(x)  # (n, 8·width, h/16, w/16)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Describe the block structure, in timm's form."""
        return {
            "stem": r"^conv1|bn1",
            "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)",
        }


def _stage(in_width: int, width: int, depth: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_width, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(depth - 1)))
