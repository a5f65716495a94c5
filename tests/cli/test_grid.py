"""Grids as they are typed: keys, values, and names that say what they stand for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ParamsError
from pipeline.cli.sweep.grid import full_path, known_paths, nested, parse_grid, points, variant_name

NUMBERS = st.one_of(
    st.integers(0, 10**6), st.floats(0, 1e6, allow_nan=False), st.sampled_from([1e-5, 2.5e-7])
)
WORDS = st.text(min_size=1, max_size=12)
AXES = st.fixed_dictionaries(
    {"train.penalty.lambda": st.lists(NUMBERS, min_size=1, max_size=4)},
    optional={
        "train.seed": st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "model.name": st.lists(WORDS, min_size=1, max_size=3),
        "plan.dead_branches": st.just([True, False]),
        "train.strategy.until": st.just([None, 0.5]),
        "model.options": st.just([{"width": 8}, {"width": 16}]),
    },
)


@given(AXES)
def test_names_are_valid_and_tell_points_apart(axes: dict) -> None:
    settings = points(axes)
    by_name = {variant_name(point): point for point in settings}
    for name in by_name:
        assert name.replace("-", "_").isidentifier(), name
        assert name.isascii()
    assert len(by_name) == len({repr(sorted(_alike(point).items())) for point in settings})


def _alike(point: dict) -> dict:
    """1 and 1.0 are the same setting."""
    return {
        path: float(value) if isinstance(value, int | float) else repr(value)
        for path, value in point.items()
    }


@given(AXES, st.randoms())
def test_a_name_does_not_depend_on_the_order_of_the_axes(axes: dict, random) -> None:
    shuffled = list(axes)
    random.shuffle(shuffled)
    again = points({path: axes[path] for path in shuffled})
    assert {variant_name(point) for point in again} == {variant_name(p) for p in points(axes)}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("lambda=0,1,5 seed=0,1", "lambda0-seed0 lambda0-seed1 lambda1-seed0 lambda1-seed1 "
         "lambda5-seed0 lambda5-seed1"),
        ("seed=0 model=resnet18 lambda=0.5", "resnet18-lambda0_5-seed0"),
        ("strategy=anneal,shallow epochs=3", "anneal-epochs3 shallow-epochs3"),
        ("learning_rate=1e-3,1.5e-5", "learning_rate0_001 learning_rate1_5e-05"),
        ("train.strategy.until=null,0.4", "until_null until0_4"),
        ("pretrained=true", "pretrained_true"),
        ("model.options.width=8", "width8"),
        ("plan.search=greedy", "greedy"),
    ],
)  # fmt: skip
def test_names_read_like_the_grid(words: str, names: str) -> None:
    assert [variant_name(point) for point in points(parse_grid(words.split()))] == names.split()


def test_a_value_that_no_name_can_say_gets_a_hash() -> None:
    grid = parse_grid(["model=timm/vit.augreg,timm_vit/augreg", "model.options={}"])
    names = [variant_name(point) for point in points(grid)]
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"timm_vit_augreg-options_-[0-9a-f]{6}", name)


def test_numbers_that_are_equal_have_one_name() -> None:
    settings = points({"train.penalty.lambda": [0, 0.0, 10**400], "model.name": [":"]})
    assert len({variant_name(point) for point in settings}) == 2


def test_short_names_are_the_last_parts_that_are_clear() -> None:
    short = {
        "lambda": "train.penalty.lambda",
        "seed": "train.seed",
        "epochs": "train.epochs",
        "model": "model.name",
        "strategy": "train.strategy.name",
        "estimator": "train.penalty.estimator",
        "search": "plan.search",
        "teacher": "train.distill.teacher",
    }
    for name, path in short.items():
        assert full_path(name) == full_path(path) == path
    assert {path.partition(".")[0] for path in known_paths()} == {
        "model",
        "train",
        "method",
        "plan",
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lamda=1", "no key 'lamda'; .*did you mean 'lambda'"),
        ("train.epoch=1", "did you mean 'train.epochs'"),
        ("replacement=bias", "'replacement' may be train.strategy.replacement or plan.replacement"),
        ("lambda", "'lambda' is no axis of a grid; write key=value,value"),
        ("lambda=", "'lambda=' is no axis"),
        ("seed={0", "'{0' is no list of values"),
        ("seed=2020-01-01", "'2020-01-01' is no list of values"),
    ],
)
def test_what_is_wrong_is_named(word: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse_grid([word])


def test_a_key_comes_once() -> None:
    with pytest.raises(ParamsError, match=r"train\.seed comes twice"):
        parse_grid(["seed=0", "train.seed=1"])


def test_nothing_typed_is_no_point() -> None:
    assert points(parse_grid([])) == []


def test_settings_nest_as_in_the_file() -> None:
    settings = {"train.penalty.lambda": 1, "train.seed": 0, "model.options.width": 8}
    assert nested(settings) == {
        "train": {"penalty": {"lambda": 1}, "seed": 0},
        "model": {"options": {"width": 8}},
    }
