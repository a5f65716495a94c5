"""Blocks that leave while a network trains: when, which, and the same again after a stop."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from trainings import assert_same_weights, fresh, settings, without_timings

from models import zoo
from models.blocks import find_blocks
from models.cost import count_macs
from models.errors import ArtifactError, BlockError, ParamsError
from models.replacements import ChannelMap, maps_in
from models.surgery import Bypass, bypass
from pipeline import replacement
from pipeline.activations import BlockStatistics
from pipeline.criteria import Evidence
from pipeline.data import Dataset, load
from pipeline.params import Strategy, validate
from pipeline.removal import Removal, as_planned, gated
from pipeline.strategies import STRATEGIES
from pipeline.train import EpochLog, train

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
NAMES = [unit.name for unit in fresh()[1]]


@pytest.mark.parametrize("name", ["progressive", "anneal", "remove_first", "shallow"])
def test_what_is_to_go_is_gone_at_the_end_and_training_got_cheaper(
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


def test_the_penalty_takes_nothing_out(data: Dataset, tmp_path: Path) -> None:
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
        ("progressive", 0.5, {"precision": "fp16", "optimizer": "adam", "learning_rate": 1e-3}),
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

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(entry: EpochLog) -> None:
        if entry["epoch"] == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run(data, tmp_path / "state.pt", log=stop, **strategy)
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
    assert all(stand_in.bias.abs().sum() > 0 for stand_in in maps.values())


def test_a_map_is_fitted_to_what_its_block_gave_and_then_learns(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def watched(*arguments):
        found = replacement.fit(*arguments)
        fitted.append({n: copy.deepcopy(m.state_dict()) for n, m in found.items()})
        return found

    monkeypatch.setattr("pipeline.train.fit", watched)
    strategy = {"name": "remove_first", "until": 0.5, "remove": NAMES[:1], "replacement": "linear"}
    model, _ = run(data, tmp_path / "state.pt", recipe={"epochs": 2}, **strategy)
    [first] = fitted
    for key, value in maps_in(model, NAMES[:1])[NAMES[0]].state_dict().items():
        assert value.shape == first[NAMES[0]][key].shape
        assert not torch.equal(value, first[NAMES[0]][key])


def test_what_fades_goes_from_the_block_to_the_identity() -> None:
    model, _ = fresh()
    model.eval()
    x = torch.randn(2, 1, 32, 32)
    share = 1.0
    with torch.no_grad(), gated(model, NAMES, lambda: share):
        torch.testing.assert_close(model(x), fresh()[0].eval()(x))
        share = 0.0
        torch.testing.assert_close(model(x), bypass(model, NAMES)(x))
    torch.testing.assert_close(model(x), fresh()[0].eval()(x))  # no hook is left


def test_what_fades_may_change_type_under_autocast() -> None:
    torch.manual_seed(0)
    model = zoo.create("convnext_atto", 10, depths=(1, 2, 1, 1))
    images = torch.randn(2, 3, 32, 32)  # stages.1.blocks.0 takes bfloat16 and gives float32
    names = [block.name for block in find_blocks(model, images) if block.removable]
    with torch.autocast("cpu", torch.bfloat16), gated(model, names, lambda: 0.5):
        assert torch.isfinite(model(images)).all()


@given(st.sampled_from(list(STRATEGIES)), st.floats(0, 0.99), st.integers(0, 20), st.floats(0, 1))
def test_schedules_never_turn_back_and_end_where_they_say(
    name: str, until: float, blocks: int, time: float
) -> None:
    strategy = STRATEGIES[name]
    gone = strategy.gone(time, until, blocks)
    assert 0 <= gone <= strategy.gone(1.0, until, blocks) <= blocks
    assert gone <= strategy.gone(min(1.0, time + 0.1), until, blocks)
    if name != "penalty" and time >= until:
        assert gone == blocks
    if strategy.gate:
        assert 0 <= strategy.gate(time, until) <= 1
        assert strategy.gate(until, until) == 0


def removal(model: nn.Module, **strategy: object) -> Removal:
    cosines = dict(zip(NAMES, [0.1, 0.9, 0.5, 0.3, 0.7], strict=True))

    def measure(there, together):
        measured = {u.name: BlockStatistics(0.0, 0.0, 0.0, cosines[u.name]) for u in there}
        return Evidence(measured, measured, {}, {}, seed=0)

    def fit(names):
        return {name: ChannelMap(torch.ones(8), torch.zeros(8), axis=1) for name in names}

    return Removal(model, fresh()[1], Strategy(**strategy), measure, fit)


@pytest.mark.parametrize("order", ["msw", "recoverability", "leave_one_out", "random"])
def test_any_criterion_may_decide_what_goes(order: str, data: Dataset, tmp_path: Path) -> None:
    strategy = {"name": "remove_first", "until": 0.5, "remove": 2, "order": order}
    _, trained = run(data, tmp_path / "state.pt", **strategy)
    assert len(set(trained.removed)) == 2
    assert set(trained.removed) <= set(NAMES)


def test_exploring_leaves_out_other_blocks_at_every_step_until_some_go(
    data: Dataset, tmp_path: Path
) -> None:
    model, _ = fresh()
    exploring = removal(model, name="explore", remove=2, order="block_influence")
    choice = random.Random(0)
    seen = set()
    for _ in range(50):
        with exploring.sampled(choice) as names:
            seen.add(tuple(sorted(names)))
            assert [isinstance(model.get_submodule(n), Bypass) for n in names] == [True, True]
        assert not any(isinstance(module, Bypass) for module in model.modules())
    assert len(seen) == 10  # of five blocks
    exploring.advance(0.5)
    with exploring.sampled(choice) as names:
        assert names == []
    assert exploring.gone == [NAMES[1], NAMES[4]]


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


def test_a_plan_names_the_blocks(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    levels = [{"level": n, "removed": NAMES[:n]} for n in range(3)]
    plan.write_text(json.dumps({"levels": levels}), encoding="utf-8")
    wanted = Strategy(name="anneal", remove={"plan": str(plan), "level": 2})
    assert as_planned(wanted).remove == NAMES[:2]
    assert as_planned(Strategy(name="anneal", remove=3)).remove == 3
    deeper = Strategy(name="anneal", remove={"plan": str(plan), "level": 7})
    with pytest.raises(ParamsError, match=r"level = 7, but .*plan.json ends at 2"):
        as_planned(deeper)
    for content in ("[]", '{"levels": []}'):
        plan.write_text(content, encoding="utf-8")
        with pytest.raises(ParamsError, match="is no plan; it takes a file that the stage plan"):
            as_planned(wanted)
    folder = Strategy(name="anneal", remove={"plan": str(tmp_path), "level": 2})
    with pytest.raises(ParamsError, match="is no plan; it takes a file that the stage plan"):
        as_planned(folder)
    plan.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        as_planned(wanted)


def test_named_blocks_alone_go_one_by_one() -> None:
    model, _ = fresh()
    named = [NAMES[0], NAMES[1], NAMES[4]]
    going = removal(model, name="progressive", remove=named, until=0.6)
    seen = []
    for time in (0.0, 0.19, 0.21, 0.41, 0.6):
        going.advance(time)
        seen.append(list(going.gone))
    least_missed_first = [NAMES[1], NAMES[4], NAMES[0]]
    assert seen == [least_missed_first[:n] for n in (0, 0, 1, 2, 3)]


def test_blocks_that_there_are_not_are_told() -> None:
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
    raw = yaml.safe_load((Path(__file__).parent / "params.yaml").read_text())
    raw["variants"] = {"a": {"train": {"strategy": strategy}}}
    with pytest.raises(ParamsError, match=message):
        validate(raw, Path("params.yaml"))


def test_strategies_end_where_they_say_without_being_told() -> None:
    assert Strategy(name="anneal").gone_at == Strategy(name="progressive").gone_at == 0.4
    assert Strategy(name="shallow").gone_at == 0
