"""Variants are added to params.yaml: each once, valid, and nothing else changes."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT

from models.errors import ParamsError
from pipeline.cli.sweep.grid import parse_grid, points
from pipeline.cli.sweep.new_variants import Addition, add_variants, named
from pipeline.core.params import load_params


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def add(*grid: str, **options: bool) -> Addition:
    return add_variants(named(points(parse_grid(grid))), **options)


def test_only_lines_of_the_variants_are_added(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    add("lambda=0,1e-5", "seed=0,1")
    after = path.read_text(encoding="utf-8").splitlines()
    lines = [
        f"  lambda{name}-seed{seed}: {{train: {{penalty: {{lambda: {value}}}, seed: {seed}}}}}"
        for name, value in (("0", "0"), ("1e-05", "1.0e-05"))
        for seed in (0, 1)
    ]
    at = after.index(lines[0])
    assert after[at : at + 4] == lines
    assert after[at - 1].startswith("    train: {strategy: {name: anneal}}")
    assert after[at + 4] == ""
    assert after[:at] + after[at + 4 :] == before.splitlines()
    variant = load_params().variant("lambda1e-05-seed1")
    assert (variant.train.penalty.weight, variant.train.seed) == (1e-5, 1)


@pytest.mark.parametrize(
    "variants",
    [
        "  dense: {}   # the plain one\n",
        "  dense: {}\n",
        "  dense: null\n",
        "  dense: {}\n  # of mine\n  mine:\n    train:\n      milestones:\n      - 0.5   # half\n",
        "  dense: {}\n  mine:\n    train:\n      epochs: 7\n",
    ],
)
def test_comments_stay_with_what_they_are_about(path: Path, variants: str) -> None:
    head, _, rest = path.read_text(encoding="utf-8").partition("variants:\n")
    tail = "\n# About scores.\n\n# More about them.\n" + rest[rest.index("score:") :]
    path.write_text(f"{head}variants:\n{variants}{tail}", encoding="utf-8")
    add("seed=3")
    added = "  seed3: {train: {seed: 3}}\n"
    expected = f"{head}variants:\n{variants}{added}{tail}"
    assert without_blank(path.read_text(encoding="utf-8")) == without_blank(expected)


def without_blank(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@given(st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=3))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_is_read_back_and_a_grid_again_is_nothing(path: Path, rates: list) -> None:
    shutil.copy(ROOT / "params.yaml", path)
    grid = f"lambda={','.join(map(repr, rates))}"
    added = add(grid)
    text = path.read_text(encoding="utf-8")
    params = load_params()
    for name, setting in added.new.items():
        assert params.variant(name).train.penalty.weight == setting["train.penalty.lambda"]
    assert add(grid) == Addition({}, list(added.new))
    assert path.read_text(encoding="utf-8") == text


def test_a_variant_in_braces_is_added_in_braces(path: Path) -> None:
    head, _, rest = path.read_text(encoding="utf-8").partition("variants:\n")
    rest = rest[rest.index("score:") :]
    path.write_text(f"{head}variants: {{dense: {{}}}}\n\n{rest}", encoding="utf-8")
    add("seed=3")
    assert list(load_params().variants) == ["dense", "seed3"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["lambda=1,-1"], r"variants.lambda-1.train.penalty.lambda = -1: Input should be greater"),
        (["epochs=three"], r"train.epochs = 'three'"),
        (["teacher=nobody"], r"'nobody'.*which is no other variant"),
        (["search=latency_aware"], r"needs latency_budget_ms"),
    ],
)
def test_an_invalid_grid_changes_nothing(path: Path, grid: list[str], message: str) -> None:
    before = path.read_text(encoding="utf-8")
    for dry_run in (True, False):
        with pytest.raises(ParamsError, match=message):
            add(*grid, dry_run=dry_run)
    assert path.read_text(encoding="utf-8") == before


def test_a_name_that_means_something_else_is_refused(path: Path) -> None:
    add("seed=3")
    text = path.read_text(encoding="utf-8").replace("{seed: 3}", "{seed: 3, epochs: 9}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match="variant 'seed3' is there with other settings; rename"):
        add("seed=3,4")
    assert path.read_text(encoding="utf-8") == text


def test_what_is_written_otherwise_but_means_the_same_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("  dense: {}", "  dense: {}\n  lambda1: {train: {penalty: {lambda: 1.0}}}")
    )
    assert add("lambda=1,2") == Addition({"lambda2": {"train.penalty.lambda": 2}}, ["lambda1"])


def test_a_dry_run_writes_nothing(path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    assert list(add("seed=3,4", dry_run=True).new) == ["seed3", "seed4"]
    assert path.read_text(encoding="utf-8") == before
