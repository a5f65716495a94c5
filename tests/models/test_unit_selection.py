"""Both modes on the paper's architectures: which pairs, in which order, at which cost."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from places import FIXED
from torch import Tensor, nn

from models.cost import count_macs, count_parameters
from models.errors import BlockError
from models.surgery import bypass
from models.unit_selection import ORDERS, Selection, select_units
from models.units import UNITS, Unit
from models.weights.loading import read_weights, state_sha256
from models.zoo import create, load
from pipeline.core.params import Method
from pipeline.distances.features import BlockStatistics, block_features, measure_blocks
from pipeline.distances.sliced import directions, max_sliced_wasserstein
from pipeline.plan.scoring.criteria import CRITERIA, BlockMeasures
from pipeline.plan.search.orders import removal_order
from stages import export, plan, score, train

OFFICIAL = Method(mode="official")

# METHOD §1 numbers MobileNetV2 as torchvision does: stem, 17 blocks, head in one row. timm has the
# same blocks in stages of 1, 2, 3, 4, 3, 3 and 1: features.1 is blocks.0.0, features.17 blocks.6.0.
FEATURES = {
    n: f"blocks.{stage}.{i}"
    for n, (stage, i) in enumerate(
        ((stage, i) for stage, depth in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(depth)),
        start=1,
    )
}
# On CIFAR; features.2 has stride 2 elsewhere.
OFFICIAL_FEATURES = (2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17)


def official(model: nn.Module, size: int) -> Selection:
    return select_units(model, torch.zeros(2, 3, size, size), mode="official")


def names(units: list[Unit]) -> list[str]:
    return [unit.name for unit in units]


def reasons(units: list[Unit]) -> dict[str, str]:
    return {unit.name: unit.reason for unit in units if not unit.removable}


def millions_of_macs(model: nn.Module) -> float:
    return count_macs(model, torch.zeros(1, 3, 32, 32)) / 1e6


def millions_of_parameters(model: nn.Module) -> float:
    return count_parameters(model) / 1e6


def order(selection: Selection, distances: list[float]) -> list[str]:
    """The order that the mode prescribes where the units have these distances on validation."""
    measured = zip(selection.removable, distances, strict=True)
    validation = {unit.name: BlockStatistics(d, d, d, 0.0) for unit, d in measured}
    return removal_order(
        CRITERIA[selection.criterion](BlockMeasures(validation, validation, {}, {}, 0))
    )


def test_every_unit_that_a_mode_names_exists() -> None:
    assert {unit for orders in ORDERS.values() for unit in orders} == set(UNITS)
    assert {c for orders in ORDERS.values() for c in orders.values()} <= set(CRITERIA)


# ResNet-18


def test_resnet_pairs_are_the_second_block_of_each_stage() -> None:
    selection = official(create("resnet18_cifar", 10), 32)
    assert selection.unit == "later_block"
    assert names(selection.removable) == [f"layer{stage}.1" for stage in (1, 2, 3, 4)]
    assert all(u.entering == u.leaving == u.name for u in selection.removable)
    assert len(selection.units) == 8
    why = reasons(selection.units)
    assert why["layer1.0"] == "is the first block of its stage"
    assert why["layer2.0"].startswith("changes shape")


def test_resnet_pairs_are_post_relu_input_and_output() -> None:
    model = create("resnet18_cifar", 10, width=8).eval()
    images = torch.randn(4, 3, 32, 32)
    with block_features(model, official(model, 32).removable) as features:
        model(images)
    stem = model.pool(model.act(model.bn1(model.conv1(images))))
    first = model.layer1[0](stem)
    torch.testing.assert_close(features["layer1.1"][0], first)
    torch.testing.assert_close(features["layer1.1"][1], model.layer1[1](first))
    assert all((tensor >= 0).all() for pair in features.values() for tensor in pair)


GOLDEN = [  # METHOD §1: blocks per stage, MMACs, parameters in millions
    ([2, 2, 2, 2], 140.1866, 11.174),
    ([2, 2, 2, 1], 121.3123, 6.453),
    ([2, 2, 1, 1], 102.4379, 5.273),
    ([2, 1, 1, 1], 83.5635, 4.977),
    ([1, 1, 1, 1], 64.6892, 4.903),
]
GOLDEN_ALONE = {"layer1.1": 11.100, "layer2.1": 10.879, "layer3.1": 9.993, "layer4.1": 6.453}


def depths(model: nn.Module) -> list[int]:
    """Blocks that are left in each stage."""
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    return [sum(bool([*block.parameters()]) for block in stage) for stage in stages]


def test_golden_values_on_the_way_down_the_official_order() -> None:
    model = create("resnet18_cifar", 10).eval()
    ordered = order(official(model, 32), [1.0, 2.0, 3.0, 4.0])  # the distances do not matter
    assert ordered == ["layer4.1", "layer3.1", "layer2.1", "layer1.1"]
    for level, (left, mmacs, millions) in enumerate(GOLDEN):
        shallow = bypass(model, ordered[:level])
        assert depths(shallow) == left
        assert millions_of_macs(shallow) == pytest.approx(mmacs, abs=5e-5)
        assert millions_of_parameters(shallow) == pytest.approx(millions, abs=5e-4)


def test_golden_values_of_each_official_unit_alone() -> None:
    model = create("resnet18_cifar", 10).eval()
    assert set(GOLDEN_ALONE) == set(names(official(model, 32).removable))
    for name, millions in GOLDEN_ALONE.items():
        shallow = bypass(model, [name])
        assert millions_of_macs(shallow) == pytest.approx(121.3123, abs=5e-5)
        assert millions_of_parameters(shallow) == pytest.approx(millions, abs=5e-4)


# Swin-T


@pytest.fixture(scope="module")
def swin() -> nn.Module:
    torch.manual_seed(0)
    return create("swin_tiny_patch4_window7_224", 10, img_size=112).eval()


def test_swin_pairs_are_block_input_and_raw_mlp_output(swin: nn.Module) -> None:
    selection = official(swin, 112)
    assert selection.unit == "mlp_branch"
    blocks = [f"layers.{i}.blocks.{j}" for i, n in enumerate((2, 2, 6, 2)) for j in range(n)]
    assert names(selection.removable) == blocks
    assert [(u.entering, u.leaving) for u in selection.removable] == [
        (name, f"{name}.mlp") for name in blocks
    ]
    assert not reasons(selection.units)
    distances = [float(i % 5) + i / 100 for i in range(12)]
    ascending = sorted(range(12), key=distances.__getitem__)
    assert order(selection, distances) == [blocks[i] for i in ascending]


def test_a_swin_distance_is_that_of_the_tensors_hooked_by_hand(swin: nn.Module) -> None:
    """The authors hook the input of a block's first norm and the last layer of its MLP."""
    images = torch.randn(16, 3, 112, 112)
    name = "layers.2.blocks.3"
    hooked: list[Tensor] = []
    block = swin.get_submodule(name)
    handles = [
        block.norm1.register_forward_hook(lambda _, args, output: hooked.append(args[0])),
        block.mlp.drop2.register_forward_hook(lambda _, args, output: hooked.append(output)),
    ]
    with torch.no_grad():
        swin(images)
    for handle in handles:
        handle.remove()
    d = hooked[0][0].numel()
    theta = directions(d, 50, generator=torch.Generator().manual_seed(3))
    by_hand = max_sliced_wasserstein(*hooked, projections=theta).item()
    unit = next(u for u in official(swin, 112).removable if u.name == name)
    measured = measure_blocks(swin, [unit], images.split(5), n_projections=50, seed=3)
    assert measured[name].msw == pytest.approx(by_hand, rel=1e-5)


# MobileNetV2


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("mobilenetv2_cifar", 32, OFFICIAL_FEATURES),
        ("mobilenetv2_100", 224, OFFICIAL_FEATURES[1:]),
    ],
)
def test_mobilenet_pairs_are_around_the_depthwise_layers(
    name: str, size: int, features: tuple[int, ...]
) -> None:
    selection = official(create(name, 10), size)
    assert selection.unit == "depthwise"
    blocks = [FEATURES[n] for n in features]
    assert names(selection.removable) == [f"{block}.conv_dw+bn2" for block in blocks]
    assert [(u.entering, u.leaving) for u in selection.removable] == [
        (f"{block}.conv_dw", f"{block}.bn2") for block in blocks
    ]
    why = reasons(selection.units)
    assert why["blocks.0.0.conv_dw+bn1"] == "is in block blocks.0.0, which does not widen its input"
    assert why["blocks.5.0.conv_dw+bn2"].startswith("changes shape")
    assert len(why) == 17 - len(features)


def test_the_order_of_mobilenet_is_ascending() -> None:
    selection = official(create("mobilenetv2_cifar", 10), 32)
    distances = [float(i * 5 % 13) for i in range(13)]
    expected = sorted(range(13), key=distances.__getitem__)
    units = names(selection.removable)
    assert order(selection, distances) == [units[i] for i in expected]


def test_golden_values_whole_and_without_the_ten_residual_blocks() -> None:
    """The authors' ten dead branches are the ten blocks that the paper's mode can remove."""
    model = create("mobilenetv2_cifar", 10).eval()
    assert millions_of_macs(model) == pytest.approx(87.9764, abs=5e-5)
    assert millions_of_parameters(model) == pytest.approx(2.2367, abs=5e-5)
    blocks = names(select_units(model, torch.zeros(2, 3, 32, 32)).removable)
    assert blocks == [FEATURES[n] for n in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    assert millions_of_macs(bypass(model, blocks)) == pytest.approx(37.37, abs=5e-3)


def test_a_unit_that_the_network_lacks_is_named() -> None:
    model, image = create("resnet18_cifar", 10, width=8), torch.zeros(2, 3, 32, 32)
    with pytest.raises(BlockError, match=r"method.unit = 'depthwise'; set it to auto or block"):
        select_units(model, image, unit="depthwise")
    assert select_units(model, image, unit="block").unit == "block"


STAGES = {"train": train, "score": score, "export": export, "plan": plan}


def test_the_stages_in_official_mode_from_initial_weights(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = FIXED.read_text(encoding="utf-8")
    penalised = {"epochs": 1, "penalty": {"lambda": 1.0}}
    start = create("resnet18_cifar", 10, in_chans=1, width=8)
    torch.save(start.state_dict(), tmp_path / "start.pth")
    own = {"train": penalised, "model": {"weights": "start.pth"}}
    variants = {mode: {"method": {"mode": mode}} | own for mode in ORDERS}
    params = yaml.safe_load(fixed) | {"variants": variants}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shutil.copytree(prepared, tmp_path / "artifacts" / "prepare")
    (tmp_path / "metrics").mkdir()
    shutil.copy(prepared / "manifest.json", tmp_path / "metrics" / "prepare.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # no server: nothing is sent

    made = {}
    for mode in ORDERS:
        for name, stage in STAGES.items():
            stage.main(mode)
            made[mode, name] = json.loads(Path("metrics", name, f"{mode}.json").read_text())

    origin = read_weights(Path("start.pth")).origin
    initial = {"origin": origin, "sha256": state_sha256(start)}
    assert [made[m, "train"]["initial_weights"] for m in ORDERS] == [initial, initial]
    assert load(Path("artifacts/train/paper"))[1].initial_weights == origin
    penalised_pairs = {m: set(made[m, "train"]["epochs"][0]["distances"]) for m in ORDERS}
    assert penalised_pairs["paper"] - penalised_pairs["official"] == {"layer1.0"}
    scored, planned = made["official", "score"], made["official", "plan"]
    assert (scored["mode"], scored["unit"]) == ("official", "later_block")
    assert [b["name"] for b in scored["blocks"] if not b["reason"]] == planned["order"][::-1]
    assert planned["criterion"] == scored["criterion"] == "deepest_first"
    assert planned["order"] == ["layer4.1", "layer3.1", "layer2.1", "layer1.1"]
    distances = made["paper", "score"]["scores"]["msw"]
    assert made["paper", "plan"]["criterion"] == "msw"
    assert made["paper", "plan"]["order"] == sorted(distances, key=distances.__getitem__)
