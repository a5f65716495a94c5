"""params.yaml: defaults, overrides of a variant, and one clear message per mistake."""

from collections.abc import Collection
from pathlib import Path
from typing import get_args

import pytest
import yaml
from places import FIXED, ROOT
from pydantic import BaseModel

from models.errors import ParamsError
from models.unit_selection import ORDERS
from pipeline.core import params
from pipeline.core.params import Params, load_params
from pipeline.data.geometry import FITS
from pipeline.data.prepare import SOURCES
from pipeline.distances.estimators import ESTIMATORS
from pipeline.plan.scoring.criteria import CRITERIA
from pipeline.plan.search.orders import SEARCHES
from pipeline.train.optimizers import OPTIMIZERS, SCHEDULES
from pipeline.train.strategies import STRATEGIES

SHIPPED = ROOT / "params.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = FIXED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_shipped_file_is_valid_and_has_every_key_of_the_tests() -> None:
    load_params(SHIPPED)
    shipped, fixed = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (SHIPPED, FIXED))
    assert shipped.keys() == fixed.keys()


@pytest.mark.parametrize(
    ("section", "key", "choices"),
    [
        (params.Plan, "criterion", {"auto", *CRITERIA}),
        (params.Plan, "search", SEARCHES),
        (params.Strategy, "name", STRATEGIES),
        (params.Strategy, "order", {"auto", *CRITERIA}),
        (params.Method, "mode", ORDERS),
        (params.Method, "unit", {"auto", *ORDERS["paper"]}),
        (params.Penalty, "estimator", ESTIMATORS),
        (params.Train, "optimizer", OPTIMIZERS),
        (params.Train, "schedule", SCHEDULES),
        (params.Prepare, "source", SOURCES),
        (params.Prepare, "fit", FITS),
    ],
)
def test_the_values_a_key_allows_are_those_that_are_implemented(
    section: type[params.Section], key: str, choices: Collection[str]
) -> None:
    assert set(get_args(section.model_fields[key].annotation)) == set(choices)


def test_a_variant_overrides_what_it_names_and_inherits_the_rest() -> None:
    params = load_params(FIXED)
    dense, lacoot = params.variant("dense"), params.variant("lacoot")
    assert dense.train.penalty.weight == 0
    assert lacoot.train.penalty.weight == 3
    assert lacoot.train.penalty.projections == dense.train.penalty.projections == 50
    assert lacoot.model == dense.model


def test_a_variant_has_a_method_of_its_own(tmp_path: Path) -> None:
    assert load_params(FIXED).variant("lacoot").method.mode == "paper"
    own = "lambda: 3.0}}\n    method: {mode: official}"
    loaded = load_params(edited(tmp_path, "lambda: 3.0}}", own))
    assert loaded.variant("lacoot").method == params.Method(mode="official", unit="auto")
    assert loaded.variant("dense").method == params.Method(mode="paper", unit="auto")


def test_the_penalty_keeps_its_name_in_files() -> None:
    dumped = load_params(FIXED).variant("lacoot").model_dump(by_alias=True)
    assert dumped["train"]["penalty"]["lambda"] == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", "unknown key train.epoch; did you mean 'epochs'?"),
        ("lambda: 3.0", "lamda: 5.0", "unknown key variants.lacoot.train.penalty.lamda; did you"),
        (
            "lambda: 3.0",
            "lambda: -1.0",
            "lambda = -1.0: Input should be greater than or equal to 0",
        ),
        ("learning_rate: 0.05", "learning_rate: fast", "train.learning_rate = 'fast'"),
        ("weight_decay: 1.0e-4", "weight_decay: 1e-4", "needs a dot: 1.0e-4"),
        ("image_size: 32", "image_size: big", "prepare.image_size = 'big'"),
        ("criterion: auto", "criterion: mws", "'msw', 'sliced'"),
        ("search: one_shot", "search: latency_aware", "plan: search 'latency_aware' needs latency"),
        (
            "search: one_shot\n  criterion: auto",
            "search: latency_aware\n  criterion: msw",
            "not by criterion 'msw'; set criterion: auto, or search: greedy",
        ),
        ("latency_budget_ms: null", "latency_budget_ms: 0.0", "should be greater than 0"),
        (
            "lambda: 3.0}}",
            "lambda: 3.0}, strategy: {remove: al}}",
            "variants.lacoot.train.strategy.remove = 'al': Input should be 'all', a number of",
        ),
        ("lambda: 3.0}}", "lambda: 3.0}, strategy: {remove: 0}}", "strategy.remove = 0: Input sho"),
        (
            "lambda: 3.0}}",
            "lambda: 3.0}, strategy: {remove: {plan: a.json, levle: 2}}}",
            "unknown key variants.lacoot.train.strategy.remove.levle; did you mean 'level'?",
        ),
        ("mode: paper", "mode: offical", "method.mode = 'offical'"),
        (
            "lambda: 3.0}}",
            "lambda: 3.0}}\n    method: {mode: official, unit: depthwise}",
            "variants.lacoot.method: unit 'depthwise' is for mode 'paper'; mode 'official' takes",
        ),
        ("  mode: paper", "  mode: official\n  units: block", "unknown key method.units; did you"),
        ("source: fashion_mnist", "source: image_folder", "needs `path`"),
        ("max: 128}", "max: 16}", "min <= opt <= max, got 1, 32, 16"),
        ("min: 1,", "min: 2,", "batch_sizes = [1, 64] is not within build.batch, 2 to 128"),
        ("max_accuracy_drop_pct: 1.0", "max_accuracy_drop_pct: .inf", "should be a finite number"),
        ("milestones: [0.5, 0.75]", "milestones: [80]", "milestones.0 = 80"),
        ("options: {width: 8}", "options: {in_chans: 3}", "in_chans: given by the data"),
        ("options: {width: 8}", "options: {drop_rate: .nan}", "not JSON compliant"),
        ("options: {width: 8}", "options: {since: 2024-01-01}", "date is not JSON serializable"),
        ("pretrained: false\n  weights: null", "pretrained: true\n  weights: a.pth", "keep one of"),
        ("lambda: 3.0", "weight: 3.0", "unknown key variants.lacoot.train.penalty.weight"),
        (
            "batch_sizes: [1, 64]",
            "batch_sizes: [1, 512]",
            "batch_sizes = [1, 512] is not within build.batch",
        ),
        ("  lacoot:", "  la/coot:", "variant 'la/coot'"),
        ("variants:", "variants: [", "not valid YAML"),
        ("score:", "scores:", "unknown key scores; did you mean 'score'?"),
    ],
)
def test_a_mistake_gets_one_line_that_names_it(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        load_params(edited(tmp_path, old, new))
    text = str(caught.value)
    assert message in text
    if "not valid YAML" not in text:
        assert len(text.splitlines()) == 1


def test_an_unknown_variant_is_named_with_near_matches() -> None:
    with pytest.raises(ParamsError, match=r"no variant 'lacot'.*did you mean 'lacoot'.*dense"):
        load_params(FIXED).variant("lacot")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the folder that holds it"):
        load_params(tmp_path / "params.yaml")


def unspelled(section: type[BaseModel], raw: dict, place: str = "") -> list[str]:
    """Return the options of a section that its YAML does not name."""
    found = []
    for name, field in section.model_fields.items():
        key = field.alias or name
        if key not in raw:
            found.append(f"{place}{key}")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += unspelled(field.annotation, raw[key], f"{place}{key}.")
    return found


def test_the_shipped_file_spells_out_every_option() -> None:
    """DVC sees values, not the code of their defaults (docs/decisions/0016)."""
    assert unspelled(Params, yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))) == []
