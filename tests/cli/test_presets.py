"""Presets: the published recipe of every network on every data set, laid over params.yaml."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from places import ROOT
from stage_process import run_module

from models.errors import ParamsError
from models.zoo import create
from pipeline.cli.presets import apply_presets, combined
from pipeline.core.params import Params, load_params

PRESETS = ROOT / "params"
SHIPPED = ROOT / "params.yaml"

# epochs, batch, optimiser, learning rate, weight decay, epochs at which the rate drops
LONG = (160, 128, "sgd", 0.1, 1e-4, [80, 120])
DOMAINS = (30, 16, "sgd", 1e-3, 5e-4, [24])
SMALL = (50, 16, "adam", 1e-4, 0.0, [])
RECIPES = {
    "cifar10": LONG,
    "tiny_imagenet": LONG,
    "pacs": DOMAINS,
    "vlcs": DOMAINS,
    "flowers102": SMALL,
    "dtd": SMALL,
    "aircraft": SMALL,
}
SIZES = {"cifar10": 32, "tiny_imagenet": 64}  # the others: 224
NETWORKS = ("resnet18", "swin_tiny", "mobilenetv2")
PUBLIC_LAMBDAS = {
    ("cifar10", "resnet18"): 5.0,
    ("cifar10", "swin_tiny"): 0.1,
    ("tiny_imagenet", "swin_tiny"): 1.0,
    ("cifar10", "mobilenetv2"): 9.0,
}
PAIRS = list(itertools.product(RECIPES, NETWORKS))


Result = tuple[Params, list[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(SHIPPED, tmp_path / "params.yaml"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Result]:
    """What each pair makes of the shipped file: its parameters and the notes."""
    path = tmp_path_factory.mktemp("presets") / "params.yaml"
    made = {}
    for pair in PAIRS:
        shutil.copy(SHIPPED, path)
        notes = apply_presets(pair, data="/data", path=path, presets=PRESETS)
        made[pair] = load_params(path), notes
    return made


def applied(path: Path, *names: str, data: str | None = "/data") -> Params:
    apply_presets(names, data=data, path=path, presets=PRESETS)
    return load_params(path)


def test_every_file_is_a_data_set_or_a_network() -> None:
    assert {file.stem for file in PRESETS.iterdir()} == {*RECIPES, *NETWORKS}


@pytest.mark.parametrize(("data_set", "network"), PAIRS)
def test_the_recipe_is_the_published_one(
    results: dict[tuple[str, str], Result], data_set: str, network: str
) -> None:
    params, _ = results[data_set, network]
    train = params.variant("dense").train
    epochs, batch, optimizer, rate, decay, drops = RECIPES[data_set]
    if network == "swin_tiny" and drops == [80, 120]:
        rate = 1e-3
    assert (train.epochs, train.batch_size, train.optimizer) == (epochs, batch, optimizer)
    assert (train.learning_rate, train.weight_decay) == (rate, decay)
    assert train.momentum == 0.9
    assert train.warmup_fraction == 0
    assert train.schedule == ("step" if drops else "constant")
    if drops:
        assert [milestone * epochs for milestone in train.milestones] == drops
    assert (params.prepare.source, params.prepare.path) == (data_set, "/data")
    assert params.prepare.image_size == SIZES.get(data_set, 224)


@pytest.mark.parametrize(("data_set", "network"), PAIRS)
def test_lambda_is_the_public_one_or_a_note_says_that_there_is_none(
    results: dict[tuple[str, str], Result], data_set: str, network: str
) -> None:
    params, notes = results[data_set, network]
    assert params.variant("dense").train.penalty.weight == 0
    weight = params.variant("lacoot").train.penalty.weight
    if (data_set, network) in PUBLIC_LAMBDAS:
        assert weight == PUBLIC_LAMBDAS[data_set, network]
        assert notes == []
    else:
        assert weight in PUBLIC_LAMBDAS.values()
        assert len(notes) == 1
        assert "to be tuned" in notes[0]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_the_networks_exist_and_take_the_images(
    results: dict[tuple[str, str], Result], network: str, size: int
) -> None:
    """Each way in which a network is created on the data sets of one image size, once."""
    seen = set()
    for data_set in RECIPES:
        if SIZES.get(data_set, 224) != size:
            continue
        model = results[data_set, network][0].model
        if model.name in seen:
            continue
        seen.add(model.name)
        module = create(model.name, 7, pretrained=False, **model.options).eval()
        with torch.no_grad():
            assert module(torch.zeros(1, 3, size, size)).shape == (1, 7)
    assert seen


def test_only_networks_that_the_authors_fine_tune_are_pretrained(
    results: dict[tuple[str, str], Result],
) -> None:
    for (data_set, network), (params, _) in results.items():
        model = params.model
        scratch = model.name.endswith("_cifar") or (data_set, network) == (
            "tiny_imagenet",
            "resnet18",
        )
        assert model.pretrained is not scratch, (data_set, network)


def test_the_order_does_not_matter(path: Path, results: dict[tuple[str, str], Result]) -> None:
    assert applied(path, "swin_tiny", "cifar10") == results["cifar10", "swin_tiny"][0]


def test_nothing_is_left_of_another_choice(
    path: Path, results: dict[tuple[str, str], Result]
) -> None:
    """Laid over one another, in a chain with every data set and network, each as on its own."""
    for pair in [*PAIRS[::4], *PAIRS[1::4]]:
        again, expected = applied(path, *pair), results[pair][0]
        for part in ("prepare", "model", "train", "variants"):
            one, other = (
                without_milestones(params.model_dump()[part]) for params in (again, expected)
            )
            assert one == other


def without_milestones(values: object) -> object:
    """Leave out what a constant rate does not read: it may be what another choice left."""
    if not isinstance(values, dict):
        return values
    unread = {"milestones"} if values.get("schedule") == "constant" else set()
    return {k: without_milestones(v) for k, v in values.items() if k not in unread}


def test_only_the_values_of_the_file_change(path: Path) -> None:
    before = path.read_text(encoding="utf-8").splitlines()
    applied(path, "flowers102", "swin_tiny")
    after = path.read_text(encoding="utf-8").splitlines()
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert old.partition("#")[2] == new.partition("#")[2]
        assert old.partition(":")[0] == new.partition(":")[0]
    assert "  learning_rate: 1.0e-4" in after


def test_variants_and_sections_of_the_user_stay(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("  dense: {}", "  dense: {}\n  mine:\n    train: {epochs: 7}  # my own"),
        encoding="utf-8",
    )
    params = applied(path, "cifar10", "resnet18")
    assert params.variant("mine").train.epochs == 7
    assert params.variant("mine").train.batch_size == 128
    assert params.variant("lacoot").train.epochs == 160
    assert "# my own" in path.read_text(encoding="utf-8")


def test_one_preset_alone_and_the_path_as_it_was(path: Path) -> None:
    applied(path, "cifar10", "mobilenetv2", data="/mine")
    params = applied(path, "resnet18", data=None)
    assert params.model.name == "resnet18"
    assert params.prepare.path == "/mine"
    assert params.train.crop_padding == 4


def test_the_path_of_another_data_set_is_not_kept(path: Path) -> None:
    applied(path, "cifar10", "resnet18", data="/mine")
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ParamsError, match=r"source 'dtd' needs `path`, the folder with the data"):
        applied(path, "dtd", data=None)
    assert path.read_text(encoding="utf-8") == before


def test_an_unknown_preset_is_named_with_near_matches(path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no preset 'resnet81' .*did you mean 'resnet18'.*vlcs"):
        applied(path, "cifar10", "resnet81")
    with pytest.raises(ParamsError, match="there are none"):
        combined(["cifar10"], path.parent / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epoch: 3}", "unknown key train.epoch; did you mean 'epochs'?"),
        ("train: [", "odd.yaml is not valid YAML"),
        ("- a\n- b", "odd.yaml must hold keys and values, got"),
        ("", "odd.yaml must hold keys and values, got NoneType"),
    ],
)
def test_a_preset_that_is_not_valid_changes_nothing(
    path: Path, tmp_path: Path, content: str, message: str
) -> None:
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "odd.yaml").write_text(content, encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        apply_presets(["odd"], path=path, presets=presets)
    assert message in str(caught.value)
    assert path.read_text(encoding="utf-8") == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("content", ["train: [", "- a", ""])
def test_a_params_file_that_is_not_valid_is_named(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ParamsError, match=r"params.yaml (is not valid|must hold keys)"):
        applied(path, "cifar10")


def test_the_command(path: Path, tmp_path: Path) -> None:
    shutil.copytree(PRESETS, tmp_path / "params")
    done = run_module("pipeline", "preset", "dtd", "swin_tiny", "--data", "/data/dtd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "params.yaml: laid over it dtd, swin_tiny"
    assert done.stdout.splitlines()[1].startswith("note: λ is public for CIFAR-10")
    assert load_params(path).prepare.path == "/data/dtd"
    done = run_module("pipeline", "preset", "cifar10", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: params.yaml: prepare: source 'cifar10' needs `path`, the folder with the data set "
        "as published\n"
    )
