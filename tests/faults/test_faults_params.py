"""Params files that are damaged in every way: valid values or one clear error, never another."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from undisturbed import FULL

from models.errors import ParamsError
from pipeline.core.params import Params, load_params

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
PARAMS = yaml.safe_load(SHIPPED)
FILES = 700 if FULL else 150
LINES = 60  # of a message: one for each mistake
WIDTH = 1000

pytestmark = pytest.mark.fault("fuzzed params.yaml")

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 10**30, -(10**30), 1e-300, 1e300, math.nan, math.inf),
    *("", "auto", "a\nb", "<script>", "../../etc", "\0", "1e-3", "ü", "x" * 5000, b"\xff\xfe"),
    *([], [[]], [None], {}, {"": None}, {1: 2}, {None: {}}, [1, "a", {}], [0] * 2000),
]
TEXTS = [
    "",
    "- a\n- b\n",
    "just a text",
    "a: b: c",
    "a: [1, 2",
    "\t a: 1",
    "prepare: {seed: 2024-99-99}",
    "prepare: {seed: !!python/object/apply:os.system [false]}",
    "prepare: !!binary ////",
    "prepare: &a [*a]",
    "prepare: &a {seed: *a}",
    "variants: &a {b: *a}",
    "variants: &a {b: {train: *a}}",
    "? [a, b]\n: 1",
    "? {a: b}\n: 1",
    "a: 1\na: 2\n",
    "a: !!set {b, c}",
    "<<: [1, 2]",
    "<<: *nothing",
    "--- 1\n--- 2\n",
    "a: " + "[" * 3000,
    "a: " + "[" * 3000 + "]" * 3000,
    "a: " + "{b: " * 3000 + "1" + "}" * 3000,
    "name: " + "9" * 10_000,
    "prepare: {seed: " + "9" * 10_000 + "}",
    "prepare: {seed: 0x" + "f" * 10_000 + "}",
    "prepare: {seed: 1:99:99:99}",
    "%YAML 9.9\n---\na: 1",
    "\ufeffname: shoal",
]


def bomb(levels: int) -> str:
    """Return YAML of a few lines that stands for 10 to the `levels` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


def require_an_answer(content: bytes, path: Path) -> bool:
    """Load a file; it is valid, or wrong in a way that is told. Return whether it is valid."""
    path.write_bytes(content)
    try:
        assert isinstance(load_params(path), Params)
    except ParamsError as e:
        lines = str(e).splitlines()
        assert 0 < len(lines) <= LINES, lines[:3]
        assert max(map(len, lines)) <= WIDTH, lines
        assert str(path) in lines[0]
        return False
    return True


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield (*at, key)
            yield from places(inner, (*at, key))


def replaced(params: Any, rng: random.Random) -> Any:
    *way, last = rng.choice(list(places(params)))
    section = params
    for key in way:
        section = section[key]
    section[last] = copy.deepcopy(rng.choice(ODD_VALUES))
    return params


def dropped(params: Any, rng: random.Random) -> Any:
    *way, last = rng.choice(list(places(params)))
    section = params
    for key in way:
        section = section[key]
    del section[last]
    return params


def renamed(params: Any, rng: random.Random) -> Any:
    *way, last = rng.choice([p for p in places(params) if not isinstance(p[-1], int)])
    section = params
    for key in way:
        section = section[key]
    new = rng.choice([f"{last}s", f"{last}"[1:], f"{last}".upper(), 7, None, 1.5, True, (1, 2)])
    section[new] = section.pop(last)
    return params


def swapped(params: Any, rng: random.Random) -> Any:
    first, second = (rng.choice(list(params)) for _ in range(2))
    params[first], params[second] = params[second], params[first]
    return params


CHANGES: list[Callable[[Any, random.Random], Any]] = [replaced, replaced, dropped, renamed, swapped]


@pytest.mark.parametrize("part", range(5))
def test_changed_values_are_valid_or_told(part: int, tmp_path: Path, record_property: Any) -> None:
    rng, path = random.Random(f"params {part}"), tmp_path / "params.yaml"
    number = FILES // 10
    record_property("faults", number)
    for _ in range(number):
        params = copy.deepcopy(PARAMS)
        for change in rng.choices(CHANGES, k=rng.randint(1, 3)):
            params = change(params, rng)
            if not list(places(params)):
                break
        require_an_answer(yaml.dump(params, allow_unicode=True).encode(), path)


@pytest.mark.parametrize("part", range(5))
def test_damaged_text_is_valid_or_told(part: int, tmp_path: Path, record_property: Any) -> None:
    rng, path = random.Random(f"text {part}"), tmp_path / "params.yaml"
    number = FILES // 10
    record_property("faults", number)
    for _ in range(number):
        content = bytearray(SHIPPED.encode())
        for _ in range(rng.randint(1, 5)):
            start = rng.randrange(len(content))
            stop = start + rng.choice([0, 1, 10, len(content)])
            content[start:stop] = rng.choice(
                [b"", b"\xff", b"\0", b"  ", b"\n", b": ", b"&a *a", b"["]
            )
        require_an_answer(bytes(content), path)


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_strange_yaml_is_told(number: int, tmp_path: Path) -> None:
    assert not require_an_answer(TEXTS[number].encode(), tmp_path / "params.yaml")


@pytest.mark.parametrize("section", ["prepare", "variants", "name", "train", "nothing", None])
def test_a_bomb_of_aliases_does_not_go_off(section: str | None, tmp_path: Path) -> None:
    params = SHIPPED.replace(f"\n{section}:", "\nold:") + "\n"
    text = f"{bomb(12)}\n{section}: *a11\n"
    for content in (text, text + params, f"{bomb(12)}\n{section}: {{dense: {{train: *a11}}}}\n"):
        assert not require_an_answer(content.encode(), tmp_path / "params.yaml")


@pytest.mark.parametrize("place", ["folder", "nothing", "binary"])
def test_what_is_no_file_of_text_is_told(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(ParamsError, match=place):
        load_params(tmp_path / place)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=FILES // 3)
@given(section=st.sampled_from(list(PARAMS)), value=JSON)
def test_any_section_is_valid_or_told(
    section: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    params = PARAMS | {section: value}
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    require_an_answer(yaml.dump(params, allow_unicode=True).encode(), path)
