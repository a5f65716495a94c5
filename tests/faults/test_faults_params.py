"""Params files of strange YAML: valid values or one clear error, never another.

Changed values and damaged text are tried by test_faults_fuzz.py.
"""

from pathlib import Path

import pytest
from places import ROOT

from models.errors import ParamsError
from pipeline.core.params import Params, load_params

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
LINES = 60  # of a message: one for each mistake
WIDTH = 1000

pytestmark = pytest.mark.fault("strange YAML in params.yaml")

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
