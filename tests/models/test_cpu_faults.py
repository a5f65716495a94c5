"""What the CPU computes wrongly: found, and kept out of training."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from torch import nn

from models.cpu_faults import has_dead_taps, memory_format, padding_in_float32
from models.hooks import hooked
from models.zoo import create


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(1, 5),
    st.integers(1, 3),
    st.one_of(st.integers(0, 3), st.just("valid"), st.just("same")),
    st.integers(1, 2),
)
def test_a_place_is_dead_where_its_gradient_is_zero(
    sizes: tuple, kernel: int, stride: int, padding: int | str, dilation: int
) -> None:
    if padding == "same":
        kernel, stride = kernel // 2 * 2 + 1, 1  # torch pads even ones differently
    module = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
    try:
        module(torch.rand(1, 1, *sizes) + 1).sum().backward()
    except RuntimeError:  # the kernel is larger than the map
        return
    dead = bool((module.weight.grad == 0).any())
    assert has_dead_taps(module, torch.Size(sizes)) == dead


def test_such_convolutions_alone_are_out_of_autocast() -> None:
    model = create("resnet18", 3)
    types: dict[str, torch.dtype] = {}

    def note(name: str, _: nn.Module, __: object, y: torch.Tensor) -> None:
        types[name] = y.dtype

    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    x = torch.randn(2, 3, 16, 16)
    with hooked(model, names, on_leave=note):
        with torch.autocast("cpu", torch.bfloat16), padding_in_float32(model):
            model(x).float().sum().backward()
        assert types["layer1.0.conv1"] == types["layer4.0.downsample.0"] == torch.bfloat16
        assert types["layer4.0.conv1"] == types["layer4.1.conv2"] == torch.float32  # 1×1 into 3×3
        gradient = model.layer4[1].conv2.weight.grad.clone()
        gradient[:, :, 1, 1] = 0
        assert not gradient.any()
        types.clear()
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        assert set(types.values()) == {torch.bfloat16}  # nothing is left on the network


@pytest.mark.parametrize(
    ("width", "device", "expected"),
    [
        (8, "cpu", torch.contiguous_format),
        (16, "cpu", torch.channels_last),
        (8, "cuda", torch.channels_last),
    ],
)
def test_narrow_networks_stay_as_torch_lays_them_out(
    width: int, device: str, expected: torch.memory_format
) -> None:
    model = create("resnet18_cifar", 3, width=width)
    assert memory_format(model, torch.device(device)) == expected


def test_a_narrow_network_of_odd_batches_is_trained_on_two_threads(prepared: Path) -> None:
    """In a process of its own: the fault ends it, at every other start or so."""
    code = NARROW.format(path=[str(ROOT), str(ROOT / "tests/support")], prepared=str(prepared))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "contiguous\n"), ended.stderr


NARROW = """
import sys, tempfile, torch
from pathlib import Path
sys.path[:0] = {path!r}
from trainings import fresh, settings
from pipeline.data.dataset import load
from pipeline.train.loop import train
torch.set_num_threads(2)
model, blocks = fresh()
formats = set()
def note(module, args):
    formats.add(args[0].is_contiguous() and module.weight.is_contiguous())
model.layer2[0].shortcut[0].register_forward_pre_hook(note)
params = settings(epochs=1, batch_size=5, images_per_epoch=25, penalty={{"lambda": 0.0}})
train(model, load(Path({prepared!r})), params, blocks, device=torch.device("cpu"),
      checkpoint=Path(tempfile.mkdtemp(), "state.pt"), log=lambda _: None)
print("contiguous" if formats == {{True}} else formats)
"""
