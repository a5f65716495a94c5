"""Repaired levels: batch norm, fine-tuning, distillation, what is shipped, and a killed stage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from stage_process import run_stage
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from trainings import assert_same_weights, fresh, settings

from models import zoo
from models.cost import count_macs
from models.errors import ArtifactError, ParamsError
from models.replacements import load as load_stand_ins
from models.replacements import maps_in
from models.surgery import bypass
from pipeline.data import Dataset, batches, load, subset
from pipeline.engines.onnxruntime import runner
from pipeline.evaluate import accuracy_pct, reestimate_batch_norm
from pipeline.heal import chosen_level, fine_tuning, repair, require_repairable
from pipeline.levels import planned_network, shipped_network
from pipeline.networks import load_trained
from pipeline.onnx_graph import load_onnx, read_boundaries
from pipeline.params import Distill, Heal, HealDistill, Plan, Strategy, load_params
from pipeline.parity import compare
from pipeline.replacement import fit
from pipeline.train import train
from stages import collapse, export, heal, plan, score
from stages import train as train_stage

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
REMOVED = ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
LEVEL = {"level": 4, "removed": REMOVED, "replacement": "identity", "val_accuracy_pct": 12.5}


@pytest.fixture(scope="module")
def data(prepared: Path) -> Dataset:
    return load(prepared)


@pytest.fixture(scope="module")
def trained(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A small network that has learnt something: about half of the images."""
    model, blocks = fresh()
    params = settings(epochs=6, penalty={"lambda": 0.0}, crop_padding=0)
    checkpoint = tmp_path_factory.mktemp("trained") / "state.pt"
    train(model, data, params, blocks, device=CPU, checkpoint=checkpoint, log=lambda _: None)
    return model.eval()


def validated(network: nn.Module, data: Dataset) -> float:
    loader = batches(data.validation, 100, mean=data.mean, std=data.std, device="cpu")
    return accuracy_pct(network, loader)


def never(level: Any, network: Any) -> Any:
    raise AssertionError("nothing is to be fine-tuned")


def test_batch_norm_is_re_estimated_on_the_level_s_network(
    trained: nn.Module, data: Dataset
) -> None:
    images = subset(data.train, 64, seed=0)
    options: Any = {"mean": data.mean, "std": data.std, "device": CPU}
    fitted = fit(trained, REMOVED, "linear", (x for x, _ in batches(images, 64, **options)))
    network = bypass(trained, REMOVED, fitted)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    params = Heal(bn_samples=200)
    networks, entry = repair(network, LEVEL, params, data, CPU, never)

    expected = bypass(trained, REMOVED, fitted)
    reestimate_batch_norm(expected, batches(subset(data.train, 200, seed=0), 256, **options))
    assert_same_weights(networks["batch_norm"], expected)
    assert entry["val_accuracy_bn_pct"] == validated(expected, data)
    assert entry["val_accuracy_removed_pct"] == 12.5  # as the plan has measured it
    assert entry["shipped"] == "removed"
    assert "val_accuracy_healed_pct" not in entry
    assert networks["removed"] is network
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_network_without_batch_norm_has_no_such_column(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)).eval()
    level = LEVEL | {"removed": []}
    networks, entry = repair(model, level, Heal(epochs=1, ship="healed"), data, CPU, never)
    assert list(networks) == ["removed"]
    assert entry == {
        "level": 4,
        "removed": [],
        "replacement": "identity",
        "shipped": "removed",  # nothing is gone, so nothing is repaired
        "val_accuracy_removed_pct": 12.5,
    }
    with pytest.raises(ParamsError, match=r"heal\.ship = 'batch_norm', but Sequential has no batc"):
        require_repairable(Heal(ship="batch_norm"), model)
    require_repairable(Heal(ship="healed", epochs=1), model)


def test_a_level_whose_batch_norms_went_with_its_blocks_is_shipped_as_planned(
    data: Dataset,
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)).eval()
    networks, entry = repair(network, LEVEL, Heal(ship="batch_norm"), data, CPU, never)
    assert list(networks) == [entry["shipped"]] == ["removed"]


def test_fine_tuning_is_the_variants_training_without_what_removes_blocks() -> None:
    variant = settings(penalty={"lambda": 5.0}, strategy={"name": "anneal"}, mixup_alpha=0.2)
    params = Heal(epochs=2, learning_rate=0.003, distill=HealDistill(weight=0.7, temperature=2.0))
    tuning = fine_tuning(variant, params)
    changed = {key for key, value in tuning if value != getattr(variant, key)}
    assert changed == {"epochs", "learning_rate", "penalty", "strategy", "distill"}
    assert (tuning.epochs, tuning.learning_rate, tuning.penalty.weight) == (2, 0.003, 0)
    assert tuning.strategy == Strategy()
    assert tuning.distill == Distill(weight=0.7, temperature=2.0)


def test_healing_brings_back_what_a_damaged_network_knew(
    trained: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    network = bypass(trained, REMOVED)
    params = Heal(ship="healed", bn_samples=500, epochs=2, learning_rate=0.02)
    tuning = fine_tuning(settings(), params)

    def tune(level: Any, student: nn.Module) -> Any:
        options: Any = {"device": CPU, "checkpoint": tmp_path / "state.pt", "log": lambda _: None}
        return train(student, data, tuning, [], **options).history

    level = LEVEL | {"val_accuracy_pct": validated(network, data)}
    networks, entry = repair(network, level, params, data, CPU, tune)
    whole, damaged = validated(trained, data), entry["val_accuracy_removed_pct"]
    assert damaged < whole - 15
    assert entry["val_accuracy_healed_pct"] > damaged + 10
    assert entry["val_accuracy_healed_pct"] == validated(networks["healed"], data)
    assert entry["shipped"] == "healed"
    assert entry["healing"]["images_seen"] == 2 * 500
    image = torch.zeros(1, 1, 32, 32)
    assert entry["healing"]["macs_spent"] == 2 * 500 * count_macs(network, image)
    assert [epoch["epoch"] for epoch in entry["healing"]["epochs"]] == [1, 2]


def test_a_distilled_step_is_the_one_taken_by_hand(
    trained: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    weight, temperature, rate = 0.6, 3.0, 0.05
    some = subset(data.train, 48, seed=1)
    data = Dataset(**(vars(data) | {"train": some}))
    plain = {"flip": False, "crop_padding": 0, "batch_size": 48, "schedule": "constant"}
    distill = HealDistill(weight=weight, temperature=temperature)
    params = Heal(epochs=1, learning_rate=rate, distill=distill)
    student = bypass(trained, REMOVED)
    options: Any = {"device": CPU, "checkpoint": tmp_path / "state.pt", "log": lambda _: None}
    tuning = fine_tuning(settings(**plain), params)
    train(student, data, tuning, [], teacher=trained, **options)

    by_hand, teacher = bypass(trained, REMOVED).double().train(), bypass(trained, []).double()
    [(images, labels)] = batches(some, 48, mean=data.mean, std=data.std, device="cpu")
    with torch.no_grad():
        wanted = softmax(teacher(images.double()) / temperature, dim=1)
    logits = by_hand(images.double())
    own = log_softmax(logits / temperature, dim=1)
    taught = temperature**2 * kl_div(own, wanted, reduction="batchmean")
    ((1 - weight) * cross_entropy(logits, labels) + weight * taught).backward()
    for expected, tuned in zip(by_hand.parameters(), student.parameters(), strict=True):
        moved = (expected - rate * expected.grad).float()  # the first step of SGD with momentum
        torch.testing.assert_close(tuned, moved, rtol=1e-3, atol=2e-4)


GONE = ["layer1.0", "layer1.1", "layer2.1"]  # in training: fewer levels are faster
FACTS = [(90.0, 89.0, 4.0), (80.0, 89.5, 3.0), (70.0, 88.9, 2.0)]  # plain %, healed %, ms


@pytest.mark.parametrize(
    ("ship", "plan_says", "expected"),
    [
        ("removed", {"max_accuracy_drop_pct": 1.0}, 0),
        ("healed", {"max_accuracy_drop_pct": 1.0}, 1),  # level 2 is below 89
        ("healed", {"max_accuracy_drop_pct": 1.2}, 2),
        ("healed", {"search": "latency_aware", "latency_budget_ms": 3.5}, 1),
        ("healed", {"search": "latency_aware", "latency_budget_ms": 2.5}, 2),
        ("removed", {"search": "latency_aware", "latency_budget_ms": 3.5}, 0),
    ],
)
def test_the_level_is_chosen_by_what_is_shipped(ship: str, plan_says: dict, expected: int) -> None:
    always = {"criterion": "auto", "max_accuracy_drop_pct": 0.0}
    plan = Plan.model_validate(always | plan_says)
    heal = Heal.model_validate({"ship": ship, "epochs": 1})
    levels = [
        {
            "removed": ["a", "b"][:n],
            "shipped": ship if n else "removed",
            "val_accuracy_removed_pct": plain,
            "val_accuracy_healed_pct": healed,
        }
        for n, (plain, healed, _) in enumerate(FACTS)
    ]
    planned = {"chosen_level": 0, "levels": [{"latency_ms": ms} for *_, ms in FACTS]}
    assert chosen_level(levels, planned, heal, plan) == expected


HEAL = {"epochs": 2, "learning_rate": 0.02, "bn_samples": 300}


@pytest.fixture(scope="module")
def project(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after the stages train to plan of one variant, with linear maps for its blocks."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(prepared, root / "artifacts" / "prepare")
    (root / "metrics").mkdir()
    shutil.copy(prepared / "manifest.json", root / "metrics" / "prepare.json")
    write_params(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # no server: nothing is sent
        for stage in (train_stage, score, export, plan):
            stage.main("dense")
    return root


def write_params(root: Path, **section: object) -> None:
    params = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    strategy = {"name": "remove_first", "until": 0.3, "remove": GONE}
    params["variants"] = {"dense": {"train": {"strategy": strategy, "precision": "fp32"}}}
    params["plan"] |= {"replacement": "linear", "max_accuracy_drop_pct": 3.0}
    params["heal"] = HEAL | section
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def metrics(stage: str) -> Any:
    return json.loads(Path("metrics", stage, "dense.json").read_text(encoding="utf-8"))


def run_repair(**section: object) -> Any:
    write_params(Path(), **section)
    heal.main("dense")
    return metrics("heal")


def test_by_default_every_level_is_shipped_as_planned(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    healed, planned = run_repair(epochs=0), metrics("plan")
    assert healed["chosen_level"] == planned["chosen_level"]
    assert not any(Path("artifacts/heal/dense").iterdir())
    for entry, level in zip(healed["levels"], planned["levels"], strict=True):
        assert entry["val_accuracy_removed_pct"] == level["val_accuracy_pct"]
        assert entry["removed"] == level["removed"]
        assert entry["shipped"] == "removed"
        assert "healing" not in entry
        assert 0 < entry["val_accuracy_bn_pct"] <= 100
    collapse.main("dense")
    assert [level["made_by"] for level in metrics("collapse")["levels"]] == ["collapse"] * 3


@pytest.mark.parametrize(
    ("ship", "measured"),
    [("batch_norm", "val_accuracy_bn_pct"), ("healed", "val_accuracy_healed_pct")],
)
def test_a_repaired_levels_graph_is_the_repaired_network(
    project: Path, monkeypatch: pytest.MonkeyPatch, ship: str, measured: str
) -> None:
    monkeypatch.chdir(project)
    healed = run_repair(ship=ship)
    collapse.main("dense")
    model, _, data = load_trained("dense")
    [(images, _)] = batches(
        subset(data.test, 100, seed=0), 100, mean=data.mean, std=data.std, device="cpu"
    )
    kept = sorted(path.name for path in Path("artifacts/collapse/dense").iterdir())
    assert kept == [f"level_{number}.onnx" for number in range(3)]
    for level, entry in zip(metrics("collapse")["levels"], healed["levels"], strict=True):
        number, removed = entry["level"], entry["removed"]
        graph = Path("artifacts/collapse/dense", level["file"])
        weights = Path(f"artifacts/heal/dense/level_{number}.safetensors")
        logits = runner(graph)(images.numpy())
        assert weights.exists() == bool(removed)
        assert level["made_by"] == ("export" if removed else "collapse")
        if not removed:
            continue
        fitted = load_stand_ins(Path(f"artifacts/plan/dense/level_{number}.safetensors"))
        network = bypass(model, removed, fitted).eval()
        as_planned = network(images).detach().numpy()
        zoo.load_weights(network, weights)
        assert compare(network(images).detach().numpy(), logits).max_rel < 1e-4
        assert compare(as_planned, logits).max_rel > 1e-2
        assert_same_weights(shipped_network(model, "dense", entry), network)
        assert list(maps_in(network, removed)) == removed
        assert level["val_accuracy_pct"] == pytest.approx(entry[measured], abs=0.5)
        there = {"layer3.1", "layer4.1"} - {*removed}
        assert {b.name for b in read_boundaries(load_onnx(graph)).values() if not b.reason} == there
    floor = healed["levels"][0]["val_accuracy_removed_pct"] - 3.0
    good = [n for n, entry in enumerate(healed["levels"]) if not n or entry[measured] >= floor]
    assert healed["chosen_level"] == max(good)


def test_healing_from_the_whole_network_counts_the_teacher(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    plain = run_repair()
    taught = run_repair(distill={"weight": 0.5, "temperature": 2.0})
    model, spec, data = load_trained("dense")
    for alone, entry in zip(plain["levels"][1:], taught["levels"][1:], strict=True):
        teacher = 2 * len(data.train) * count_macs(model, spec.example())
        student = count_macs(planned_network(model, "dense", entry), spec.example())
        assert alone["healing"]["macs_spent"] == 2 * len(data.train) * student
        assert entry["healing"]["macs_spent"] == alone["healing"]["macs_spent"] + teacher
        assert alone["healing"]["epochs"][0]["loss"] != entry["healing"]["epochs"][0]["loss"]


def start(root: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.heal", "dense"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_timings(inner) for key, inner in value.items() if key != "seconds"}
    return [without_timings(inner) for inner in value] if isinstance(value, list) else value


def test_a_killed_stage_continues_to_the_same_weights(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    write_params(project, ship="healed", distill={"weight": 0.5})
    done = run_stage("heal", "dense", cwd=project, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    whole, folder = metrics("heal"), project / "artifacts/heal/dense"
    weights = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(weights) == 2
    shutil.rmtree(folder)  # as DVC does

    seen = []
    with start(project) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if "level 2  epoch 1/2" in line:
                process.kill()
                break
    assert process.returncode == -9
    assert not folder.exists()  # nothing half-written
    assert len([*(project / ".cache/checkpoints").glob("*/*.pt")]) == 2
    again = run_stage("heal", "dense", cwd=project, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    # The times in these lines show that what was finished was not done again.
    assert set(seen) <= set(again.stdout.splitlines(keepends=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == weights
    assert without_timings(metrics("heal")) == without_timings(whole)
    assert not any((project / ".cache/checkpoints").iterdir())


def test_damaged_or_foreign_weights_are_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    healed = run_repair(ship="batch_norm")
    path, model = Path("artifacts/heal/dense/level_2.safetensors"), load_trained("dense")[0]
    shutil.copy(path.with_name("level_1.safetensors"), path)
    for damage in (lambda: None, lambda: path.write_bytes(b"no weights")):
        damage()
        with pytest.raises(ArtifactError, match=r"level_2\.safetensors holds no weights of this"):
            shipped_network(model, "dense", healed["levels"][2])
    path.unlink()
    with pytest.raises(ArtifactError, match=r"level_2\.safetensors is missing; `dvc repro` makes"):
        shipped_network(model, "dense", healed["levels"][2])


def test_shipping_what_is_not_made_is_refused(tmp_path: Path) -> None:
    write_params(tmp_path, ship="healed", epochs=0)
    with pytest.raises(ParamsError, match=r"params\.yaml: heal: ship 'healed' needs epochs above"):
        load_params(tmp_path / "params.yaml")
    write_params(tmp_path, ship="heeled")
    with pytest.raises(ParamsError, match=r"heal\.ship = 'heeled'"):
        load_params(tmp_path / "params.yaml")
