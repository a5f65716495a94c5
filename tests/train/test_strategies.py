"""Blocks that leave while a network trains: when, which, and the same again after a stop."""

import copy
import random
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from places import FIXED
from torch import nn
from trainings import (
    Stopped,
    assert_same_weights,
    fresh,
    settings,
    stop_after,
    without_timings,
)

from models import zoo
from models.blocks import find_blocks
from models.cost import count_macs
from models.errors import BlockError, ParamsError
from models.replacement import fitting as replacement
from models.replacement.modules import maps_in
from models.surgery import Bypass, bypass
from pipeline.core.params import Strategy, validate
from pipeline.data.dataset import Dataset, load
from pipeline.train.loop import train
from pipeline.train.strategies import STRATEGIES, Removal, gated

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.zeros(1, 1, 32, 32)


@pytest.fixture
def data(prepared: Path) -> Dataset:
    return load(prepared)


def run(data: Dataset, checkpoint: Path, log=lambda _: None, recipe=None, **strategy: object):
    model, blocks = fresh()
    params = settings(strategy=strategy, **(recipe or {}))
    options = {"device": torch.device("cpu"), "checkpoint": checkpoint, "log": log}
    return model, train(model, data, params, blocks, **options)


SPEC = {
    "name": "resnet18_cifar",
    "num_classes": 10,
    "in_chans": 1,
    "image_size": 32,
    "mean": [0.5],
    "std": [0.5],
    "classes": list("abcdefghij"),
}
UNTOUCHED, UNITS = fresh()
NAMES = [unit.name for unit in UNITS]


@pytest.mark.parametrize("name", ["progressive", "anneal", "remove_first", "shallow"])
def test_the_blocks_are_removed_at_the_end_and_training_got_cheaper(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    model, trained = run(data, tmp_path / "state.pt", name=name, until=0.5)
    assert sorted(trained.removed) == sorted(NAMES)
    first, last = trained.history[0], trained.history[-1]
    assert last["removed"] == trained.removed
    assert last["macs_spent"] == len(data.train) * count_macs(model.eval(), IMAGES)
    assert first["macs_spent"] > last["macs_spent"]
    whole = fresh()[0].eval()
    assert count_macs(bypass(whole, NAMES), IMAGES) == count_macs(model, IMAGES)
    assert [block.name for block in find_blocks(model, IMAGES) if block.removable] == []


def test_the_penalty_removes_nothing(data: Dataset, tmp_path: Path) -> None:
    _, trained = run(data, tmp_path / "state.pt", name="penalty")
    assert trained.removed == []


def test_before_the_first_step_is_the_shallow_network_itself(data: Dataset, tmp_path: Path) -> None:
    model, trained = run(data, tmp_path / "state.pt", name="shallow")
    by_hand = bypass(fresh()[0], NAMES)
    options = {"device": torch.device("cpu"), "checkpoint": tmp_path / "other.pt"}
    params = settings(penalty={"lambda": 0.0})
    history = train(by_hand, data, params, [], log=lambda _: None, **options).history
    assert_same_weights(model, by_hand)
    assert [entry["task_loss"] for entry in trained.history] == [
        entry["task_loss"] for entry in history
    ]


@pytest.mark.parametrize(
    ("name", "until", "recipe"),
    [
        # A CPU takes ten times as long over fp16.
        ("progressive", 0.5, {"precision": "fp16", "optimizer": "adam", "images_per_epoch": 100}),
        ("progressive", 0.5, {"penalty": {"lambda": 1.0, "estimator": "power"}}),
        ("anneal", 0.5, {}),
        ("remove_first", 0.2, {}),
        ("explore", 0.5, {}),
        ("remove_first", 0.5, {"replacement": "linear"}),
        ("progressive", 0.5, {"replacement": "affine", "optimizer": "adam", "learning_rate": 1e-3}),
    ],
)
def test_a_continued_training_is_the_uninterrupted_one(
    name: str, until: float, recipe: dict, data: Dataset, tmp_path: Path
) -> None:
    own = {key: recipe[key] for key in recipe if key == "replacement"}
    recipe = {key: recipe[key] for key in recipe if key != "replacement"}
    strategy = {"recipe": recipe, "name": name, "until": until, "remove": 3, **own}
    whole, expected = run(data, tmp_path / "whole.pt", **strategy)
    with pytest.raises(Stopped):
        run(data, tmp_path / "state.pt", log=stop_after(1), **strategy)
    model, continued = run(data, tmp_path / "state.pt", **strategy)
    assert continued.removed == expected.removed
    assert_same_weights(model, whole)
    assert without_timings(continued.history) == without_timings(expected.history)


def test_the_saved_network_lacks_the_blocks_too(data: Dataset, tmp_path: Path) -> None:
    model, trained = run(data, tmp_path / "state.pt", name="remove_first", until=0.5, remove=2)
    spec = zoo.ModelSpec(**SPEC, options={"width": 8}, removed=trained.removed)
    zoo.save(tmp_path, spec, model)
    loaded, _ = zoo.load(tmp_path)
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x))
    removable = [block.name for block in find_blocks(loaded, IMAGES) if block.removable]
    assert removable == [name for name in NAMES if name not in trained.removed]


@pytest.mark.parametrize("kind", ["bias", "affine", "linear"])
def test_maps_stand_in_are_trained_along_and_are_saved(
    kind: str, data: Dataset, tmp_path: Path
) -> None:
    strategy = {"name": "remove_first", "until": 0.5, "remove": 2, "replacement": kind}
    model, trained = run(data, tmp_path / "state.pt", recipe={"epochs": 2}, **strategy)
    assert list(trained.maps) == trained.removed
    assert set(trained.maps.values()) == {1}
    maps = maps_in(model, trained.removed)
    assert [block.name for block in find_blocks(model, IMAGES) if block.removable] == [
        name for name in NAMES if name not in trained.removed
    ]
    spec = zoo.ModelSpec(**SPEC, options={"width": 8}, removed=trained.removed, maps=trained.maps)
    zoo.save(tmp_path, spec, model)
    loaded, _ = zoo.load(tmp_path)
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x))
    assert all(replacement.bias.abs().sum() > 0 for replacement in maps.values())


def test_a_map_is_fitted_to_what_its_block_gave_and_is_then_trained(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def watched(*arguments):
        found = replacement.fit(*arguments)
        fitted.append({n: copy.deepcopy(m.state_dict()) for n, m in found.items()})
        return found

    monkeypatch.setattr("pipeline.train.calibration.fit", watched)
    strategy = {"name": "remove_first", "until": 0.5, "remove": NAMES[:1], "replacement": "linear"}
    model, _ = run(data, tmp_path / "state.pt", recipe={"epochs": 2}, **strategy)
    [first] = fitted
    for key, value in maps_in(model, NAMES[:1])[NAMES[0]].state_dict().items():
        assert value.shape == first[NAMES[0]][key].shape
        assert not torch.equal(value, first[NAMES[0]][key])


def test_a_gate_leads_from_the_block_to_the_identity() -> None:
    model, _ = fresh()
    model.eval()
    x = torch.randn(2, 1, 32, 32)
    weight = 1.0
    with torch.no_grad(), gated(model, NAMES, lambda: weight):
        torch.testing.assert_close(model(x), fresh()[0].eval()(x))
        weight = 0.0
        torch.testing.assert_close(model(x), bypass(model, NAMES)(x))
    torch.testing.assert_close(model(x), fresh()[0].eval()(x))  # no hook is left


def test_a_block_with_a_gate_may_change_type_under_autocast() -> None:
    torch.manual_seed(0)
    model = zoo.create("convnext_atto", 10, depths=(1, 2, 1, 1))
    images = torch.randn(2, 3, 32, 32)  # stages.1.blocks.0 takes bfloat16 and gives float32
    names = [block.name for block in find_blocks(model, images) if block.removable]
    with torch.autocast("cpu", torch.bfloat16), gated(model, names, lambda: 0.5):
        assert torch.isfinite(model(images)).all()


COSINES = dict(zip(NAMES, [0.1, 0.9, 0.5, 0.3, 0.7], strict=True))


class Ranked:
    """A calibration that ranks by `COSINES`."""

    def ranked(self, units, criterion, *, together):
        return sorted((unit.name for unit in units), key=lambda name: -COSINES[name])


def removal(model: nn.Module, **strategy: object) -> Removal:
    settings = Strategy(**strategy)
    return STRATEGIES[settings.name](model, UNITS, settings, Ranked())


@given(st.sampled_from(list(STRATEGIES)), st.floats(0, 0.99), st.integers(1, 5), st.floats(0, 1))
def test_schedules_never_turn_back_and_end_where_they_say(
    name: str, until: float, blocks: int, time: float
) -> None:
    strategy = removal(UNTOUCHED, name=name, until=until, remove=blocks)
    due = strategy.due(time)
    assert 0 <= due <= strategy.due(min(1.0, time + 0.1)) <= strategy.due(1.0) <= blocks
    if name != "penalty" and time >= until:
        assert due == blocks


@pytest.mark.parametrize(
    ("until", "expected"), [(0.0, [0.0, 0.0, 0.0]), (0.4, [1.0, 0.5, 0.0]), (0.8, [1.0, 0.75, 0.5])]
)
def test_the_gate_weight_falls_from_one_to_zero(until: float, expected: list[float]) -> None:
    annealing = removal(copy.deepcopy(UNTOUCHED), name="anneal", until=until, remove=2)
    annealing.before_epoch(random.Random(0))
    weights = []
    for time in (0.0, 0.2, 0.4):
        annealing.before_step(time)
        weights.append(annealing.gate_weight)
    assert weights == pytest.approx(expected)
    annealing.before_step(until)
    assert annealing.gate_weight == 0
    assert annealing.chosen == []
    assert annealing.removed == [NAMES[1], NAMES[4]]


@pytest.mark.parametrize("order", ["msw", "recoverability", "leave_one_out", "random"])
def test_any_criterion_may_decide_what_is_removed(
    order: str, data: Dataset, tmp_path: Path
) -> None:
    strategy = {"name": "remove_first", "until": 0.5, "remove": 2, "order": order}
    _, trained = run(data, tmp_path / "state.pt", **strategy)
    assert len(set(trained.removed)) == 2
    assert set(trained.removed) <= set(NAMES)


def test_exploring_bypasses_other_blocks_at_every_step_until_some_are_removed(
    data: Dataset, tmp_path: Path
) -> None:
    model, _ = fresh()
    exploring = removal(model, name="explore", remove=2, order="block_influence")
    exploring.before_epoch(random.Random(0))
    seen = set()
    for _ in range(50):
        assert exploring.before_step(0.1) == []
        seen.add(tuple(sorted(exploring.bypassed)))
        assert [n for n in NAMES if isinstance(model.get_submodule(n), Bypass)] == sorted(
            exploring.bypassed
        )
        exploring.after_step()
        assert not any(isinstance(module, Bypass) for module in model.modules())
    assert len(seen) == 10  # of five blocks
    assert exploring.before_step(0.5) == exploring.removed == [NAMES[1], NAMES[4]]
    assert exploring.bypassed == []


def test_what_exploring_costs_is_what_ran(data: Dataset, tmp_path: Path) -> None:
    strategy = {"name": "explore", "until": 0.99, "remove": 4}
    recipe = {"epochs": 1, "penalty": {"lambda": 0.0}}
    _, trained = run(data, tmp_path / "state.pt", recipe=recipe, **strategy)
    whole = fresh()[0].eval()
    fewest, most = sorted(
        count_macs(bypass(whole, [n for n in NAMES if n != kept]), IMAGES)
        for kept in (NAMES[0], NAMES[-1])
    )
    mean = trained.history[0]["macs_spent"] / len(data.train)
    assert 0.9 * fewest < mean < 1.1 * most < count_macs(whole, IMAGES)


def test_named_blocks_alone_are_removed_one_by_one() -> None:
    model, _ = fresh()
    named = [NAMES[0], NAMES[1], NAMES[4]]
    progressive = removal(model, name="progressive", remove=named, until=0.6)
    seen = [progressive.before_step(time) for time in (0.0, 0.19, 0.21, 0.41, 0.6)]
    assert seen == [[], [], [NAMES[1]], [NAMES[4]], [NAMES[0]]]  # the least important first
    assert progressive.removed == [NAMES[1], NAMES[4], NAMES[0]]


def test_blocks_that_there_are_not_are_an_error() -> None:
    with pytest.raises(BlockError, match=r"remove = 9, but removable are only: layer1.0"):
        removal(fresh()[0], name="anneal", remove=9)
    with pytest.raises(BlockError, match=r"'layer1.9'; did you mean 'layer1.1'"):
        removal(fresh()[0], name="anneal", remove=["layer1.9"])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"name": "shallow", "until": 0.5}, "'shallow' trains from scratch"),
        ({"name": "remove_first"}, "'remove_first' removes blocks of a trained network"),
        ({"name": "anneal", "remove": 0}, "remove"),
        ({"name": "anneal", "replacement": "linear"}, "'anneal' fades blocks towards the identity"),
        ({"name": "annealing"}, "annealing"),
    ],
)
def test_strategies_that_make_no_sense_are_refused(strategy: dict, message: str) -> None:
    raw = yaml.safe_load(FIXED.read_text())
    raw["variants"] = {"a": {"train": {"strategy": strategy}}}
    with pytest.raises(ParamsError, match=message):
        validate(raw, Path("params.yaml"))


def test_strategies_end_where_they_say_without_more() -> None:
    ends = {name: removal(UNTOUCHED, name=name).until for name in STRATEGIES}
    later = dict.fromkeys(("progressive", "anneal", "explore"), 0.4)
    assert ends == later | dict.fromkeys(("penalty", "remove_first", "shallow"), 0.0)
    orders = {removal(UNTOUCHED, name=name).criterion for name in STRATEGIES if name != "explore"}
    assert orders == {"block_influence"}
    assert removal(UNTOUCHED, name="explore").criterion == "recoverability"
    assert removal(UNTOUCHED, name="explore", order="msw").criterion == "msw"
