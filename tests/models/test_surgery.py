"""Blocks replaced by the identity in PyTorch."""

import pytest
import torch
from torch import nn

from models.errors import BlockError
from models.surgery import bypass, joint_name, module_paths, restore
from models.zoo import create


def test_a_bypassed_network_is_the_network_without_the_block() -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, width=8).eval()
    x = torch.randn(3, 3, 32, 32)
    before = model(x)
    shallow = bypass(model, ["layer1.1", "layer3.1"])
    by_hand = create("resnet18_cifar", 10, width=8).eval()
    by_hand.load_state_dict(model.state_dict())
    by_hand.layer1 = nn.Sequential(by_hand.layer1[0])
    by_hand.layer3 = nn.Sequential(by_hand.layer3[0])
    torch.testing.assert_close(shallow(x), by_hand(x))
    assert torch.equal(model(x), before)  # the original is left as it was


def test_an_unknown_block_is_named_with_near_matches() -> None:
    with pytest.raises(BlockError, match=r"no block 'layer1.9' .*did you mean 'layer1.1'"):
        bypass(create("resnet18_cifar", 10, width=8), ["layer1.9"])


def test_a_name_may_stand_for_siblings_that_are_removed_together() -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, width=8).eval()
    x = torch.randn(2, 3, 32, 32)
    together = bypass(model, ["layer1.0.conv2+bn2"])
    assert torch.equal(together(x), bypass(model, ["layer1.0.conv2", "layer1.0.bn2"])(x))
    assert not torch.equal(together(x), model(x))
    with pytest.raises(BlockError, match=r"no block 'layer1.0.conv2\+bn3' in the network"):
        bypass(model, ["layer1.0.conv2+bn3"])


def test_restored_blocks_are_the_networks_and_the_rest_stays_changed() -> None:
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, width=8).eval()
    x, names = torch.randn(2, 3, 32, 32), ["layer1.0", "layer3.1.conv2+bn2"]
    shallow = bypass(model, names, {"layer1.0": nn.Conv2d(8, 8, 1)})
    torch.testing.assert_close(restore(shallow, model, names)(x), model(x))
    with torch.no_grad():
        shallow.fc.bias.add_(1.0)
    whole = restore(shallow, model, names)
    torch.testing.assert_close(whole(x), model(x) + 1)
    assert whole.layer1[0] is not model.layer1[0]
    assert isinstance(shallow.layer1[0], nn.Conv2d)  # the shallow network is left as it is


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("a.b.conv+norm+act", ["a.b.conv", "a.b.norm", "a.b.act"]),
        ("0+1", ["0", "1"]),
        ("layer1.1", ["layer1.1"]),
    ],
)
def test_a_joint_name_and_its_paths(name: str, paths: list[str]) -> None:
    assert module_paths(name) == paths
    assert joint_name(paths) == name
