"""params.yaml: defaults, overrides of a variant, and one clear message per mistake."""

from pathlib import Path

import pytest

from models.errors import ParamsError
from pipeline.params import load_params

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_variant_overrides_what_it_names_and_inherits_the_rest() -> None:
    params = load_params(SHIPPED)
    dense, lacoot = params.variant("dense"), params.variant("lacoot")
    assert dense.train.penalty.weight == 0
    assert lacoot.train.penalty.weight == 3
    assert lacoot.train.penalty.projections == dense.train.penalty.projections == 50
    assert lacoot.model == dense.model


def test_the_penalty_keeps_its_name_in_files() -> None:
    dumped = load_params(SHIPPED).variant("lacoot").model_dump(by_alias=True)
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
        ("learning_rate: 0.1", "learning_rate: fast", "train.learning_rate = 'fast'"),
        ("weight_decay: 1.0e-4", "weight_decay: 1e-4", "needs a dot: 1.0e-4"),
        ("image_size: 32", "image_size: big", "prepare.image_size = 'big'"),
        ("criterion: msw", "criterion: mws", "'msw', 'sliced'"),
        ("source: fashion_mnist ", "source: image_folder ", "needs `path`"),
        ("max: 128}", "max: 16}", "min <= opt <= max, got 1, 32, 16"),
        (
            "batch_sizes: [1, 32, 128]",
            "batch_sizes: [1, 512]",
            "has 512, more than build.batch.max",
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
        load_params(SHIPPED).variant("lacot")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the folder that holds it"):
        load_params(tmp_path / "params.yaml")
