"""Channel maps in the graph: the collapsed file computes what PyTorch computes with them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.blocks import find_blocks
from models.replacement.fitting import FITS, KINDS, fit
from models.surgery import bypass
from models.zoo import create
from pipeline.collapse.channel_maps import Map, as_maps
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.export.boundaries import load_onnx, read_boundaries
from pipeline.export.exporter import export_onnx
from pipeline.export.session import runner

NETWORKS = {
    "resnet18_cifar": {"width": 8},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (2, 2), "num_heads": (3, 6)},
    "convnext_atto": {"depths": (3, 2, 2, 2)},
    "mobilenetv2_cifar": {},
}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A network, images, its removable blocks and its ONNX file."""
    options = NETWORKS[request.param]
    torch.manual_seed(0)
    model = create(request.param, 10, in_chans=3, **options).eval()
    size = options.get("img_size", 32)
    images = torch.randn(6, 3, size, size)
    blocks = find_blocks(model, images)
    path = tmp_path_factory.mktemp("maps") / "model.onnx"
    export_onnx(model, images, path, blocks=blocks)
    return model, images, [block.name for block in blocks if block.removable], path


@pytest.mark.parametrize("kind", FITS)
def test_the_graph_computes_what_pytorch_computes(exported, kind: str, tmp_path: Path) -> None:
    model, images, names, source = exported
    removed = names[:3][::-1]  # neighbours among them, from the back
    replacements = fit(model, removed, kind, [images])
    maps = as_maps(replacements)
    collapse_onnx(source, tmp_path / "level.onnx", removed, maps)
    with torch.no_grad():
        expected = bypass(model, removed, replacements)(images).numpy()
    logits = runner(tmp_path / "level.onnx")(images.numpy())
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_a_graph_with_maps_can_be_collapsed_further(exported, tmp_path: Path) -> None:
    model, images, names, source = exported
    replacements = fit(model, names[:1], "linear", [images])
    maps = as_maps(replacements)
    collapse_onnx(source, tmp_path / "once.onnx", names[:1], maps)
    assert list(read_boundaries(load_onnx(tmp_path / "once.onnx"))) == [
        name for name in read_boundaries(load_onnx(source)) if name != names[0]
    ]
    collapse_onnx(tmp_path / "once.onnx", tmp_path / "twice.onnx", names[1:2])
    with torch.no_grad():
        expected = bypass(model, names[:2], replacements)(images).numpy()
    logits = runner(tmp_path / "twice.onnx")(images.numpy())
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


class Branch(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Odd(nn.Module):
    """Blocks right behind a convolution that a map may, or may not, become part of."""

    def __init__(self, *, groups: int, bias: bool, again: bool, skip: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=bias)
        self.blocks = nn.Sequential(*(Branch(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(2)))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
        self.last = nn.Sequential(Branch(nn.Linear(3, 3), nn.GELU()))
        self.again, self.skip = again, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.again:  # two convolutions share their weights
            x = self.stem(torch.relu(x))
        y = self.blocks(x) + x if self.skip else self.blocks(x)  # two nodes read the convolution
        return self.last(self.head(torch.relu(y)))  # the graph's output is a block's


@pytest.mark.parametrize(
    "change", [{"groups": 2}, {"groups": 4}, {"bias": False}, {"again": True}, {"skip": True}]
)
def test_maps_behind_odd_convolutions_and_at_the_end(change: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    usual = {"groups": 1, "bias": True, "again": False, "skip": False}
    model = Odd(**(usual | change)).eval()
    images = torch.randn(5, 4, 8, 8)
    export_onnx(model, images, tmp_path / "model.onnx")
    for kind in FITS:
        for removed in (["blocks.0"], ["blocks.1", "blocks.0", "last.0"]):
            replacements = fit(model, removed, kind, [images])
            maps = as_maps(replacements)
            collapse_onnx(tmp_path / "model.onnx", tmp_path / "level.onnx", removed, maps)
            with torch.no_grad():
                expected = bypass(model, removed, replacements)(images).numpy()
            logits = runner(tmp_path / "level.onnx")(images.numpy())
            np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=f"{kind} {removed}")


def test_maps_right_behind_a_convolution_are_fused_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = (Branch(nn.Conv2d(4, 4, 3, padding=1), nn.GELU()) for _ in range(2))
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(*blocks), head).eval()
    images = torch.randn(4, 3, 8, 8)
    export_onnx(model, images, tmp_path / "model.onnx")
    removed = ["1.0", "1.1"]
    report = collapse_onnx(tmp_path / "model.onnx", tmp_path / "plain.onnx", removed)
    for kind in FITS:
        replacements = fit(model, removed, kind, [images])
        maps = as_maps(replacements)
        folded = collapse_onnx(tmp_path / "model.onnx", tmp_path / "level.onnx", removed, maps)
        assert (folded.after.nodes, folded.after.macs) == (report.after.nodes, report.after.macs)
        with torch.no_grad():
            expected = bypass(model, removed, replacements)(images).numpy()
        logits = runner(tmp_path / "level.onnx")(images.numpy())
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_map_stays_where_the_block_that_it_reads_is_removed_later(tmp_path: Path) -> None:
    torch.manual_seed(0)
    convolutions = nn.Sequential(*(nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4, 4)))
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    model = nn.Sequential(convolutions, head).eval()  # its blocks end in what a map can be part of
    images = torch.randn(4, 3, 8, 8)
    export_onnx(model, images, tmp_path / "model.onnx")
    replacements = fit(model, ["0.2"], "linear", [images])
    maps = as_maps(replacements)
    collapse_onnx(tmp_path / "model.onnx", tmp_path / "once.onnx", ["0.2"], maps)
    collapse_onnx(tmp_path / "once.onnx", tmp_path / "twice.onnx", ["0.1"])
    for name, removed in (("once", ["0.2"]), ("twice", ["0.1", "0.2"])):
        with torch.no_grad():
            expected = bypass(model, removed, replacements)(images).numpy()
        logits = runner(tmp_path / f"{name}.onnx")(images.numpy())
        np.testing.assert_allclose(logits, expected, atol=1e-5, err_msg=name)


def test_neighbouring_maps_become_one(tmp_path: Path) -> None:
    model = create("resnet18_cifar", 10, width=8).eval()
    images = torch.randn(4, 3, 32, 32)
    export_onnx(model, images, tmp_path / "model.onnx")
    removed = ["layer1.0", "layer1.1"]
    maps = as_maps(fit(model, removed, "linear", [images]))
    collapse_onnx(tmp_path / "model.onnx", tmp_path / "level.onnx", removed, maps)
    names = [node.name for node in onnx.load(tmp_path / "level.onnx").graph.node]
    assert [name for name in names if ".map" in name] == ["layer1.0.map.conv"]


@given(st.integers(0, 2**31 - 1), st.sampled_from(KINDS[1:]), st.sampled_from(KINDS[1:]))
def test_one_map_after_another_is_one_map(seed: int, first: str, second: str) -> None:
    rng = np.random.default_rng(seed)
    shapes = {"bias": None, "affine": 3, "linear": (3, 3)}

    def drawn(kind: str) -> Map:
        weight = None if kind == "bias" else rng.normal(size=shapes[kind])
        return Map(weight, rng.normal(size=3), 1)

    a, b, x = drawn(first), drawn(second), rng.normal(size=3)
    np.testing.assert_allclose(b.after(a).of_vector(x), b.of_vector(a.of_vector(x)), atol=1e-12)
