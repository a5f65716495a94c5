"""Repaired levels: batch norm, fine-tuning, distillation, what is shipped, and a killed stage."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from places import FIXED, ROOT
from stage_process import run_stage
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from trainings import assert_same_weights, fresh, settings

from models import zoo
from models.batch_norm import reestimate_batch_norm
from models.cost import count_macs
from models.errors import ArtifactError, ParamsError
from models.replacement.fitting import fit
from models.replacement.modules import load as load_replacements
from models.replacement.modules import maps_in
from models.surgery import bypass
from pipeline.collapse.records import CollapseMetrics
from pipeline.core.artifacts import metrics_path, read_json
from pipeline.core.params import Distill, Heal, HealDistill, Plan, Strategy, load_params
from pipeline.core.records import read_record
from pipeline.data.dataset import Dataset, load
from pipeline.export.boundaries import load_onnx, read_boundaries
from pipeline.export.parity import compare
from pipeline.export.session import runner
from pipeline.plan.heal import chosen_level, fine_tuning, lagging, repair, require_repairable
from pipeline.plan.networks import planned_network, shipped_network
from pipeline.plan.records import HealedLevel, HealMetrics, PlanMetrics, PlannedLevel, Repair
from pipeline.train.loop import train
from stages import collapse, export, heal, plan, score
from stages import train as train_stage
from stages.inputs import load_trained

CPU = torch.device("cpu")
REMOVED = ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
LEVEL = PlannedLevel(4, REMOVED, "identity", 12.5, {})


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
    return data.validation_accuracy_pct(network)


def never(level: Any, network: Any) -> Any:
    raise AssertionError("nothing is to be fine-tuned")


def test_batch_norm_is_re_estimated_in_the_levels_network(
    trained: nn.Module, data: Dataset
) -> None:
    fitted = fit(trained, REMOVED, "linear", [data.normalised(data.train.sample(64))])
    network = bypass(trained, REMOVED, fitted)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    params = Heal(bn_samples=200)
    networks, healed = repair(network, LEVEL, params, data, CPU, never)

    expected = bypass(trained, REMOVED, fitted)
    reestimate_batch_norm(expected, data.batches(data.train.sample(200), 256))
    assert_same_weights(networks["batch_norm"], expected)
    assert healed.val_accuracy_pct == {
        "removed": 12.5,  # as the plan has measured it
        "batch_norm": validated(expected, data),
    }
    assert healed.shipped == "removed"
    assert networks["removed"] is network
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_network_without_batch_norm_has_no_such_repair(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)).eval()
    level = replace(LEVEL, removed=[])
    networks, healed = repair(model, level, Heal(epochs=1, ship="healed"), data, CPU, never)
    assert list(networks) == ["removed"]
    # Nothing is removed, so nothing is repaired.
    assert healed == HealedLevel(4, [], "identity", "removed", {"removed": 12.5})
    with pytest.raises(ParamsError, match=r"heal\.ship = 'batch_norm', but Sequential has no batc"):
        require_repairable(Heal(ship="batch_norm"), model)
    require_repairable(Heal(ship="healed", epochs=1), model)


def test_a_level_whose_batch_norms_were_in_removed_blocks_is_shipped_as_planned(
    data: Dataset,
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)).eval()
    networks, healed = repair(network, LEVEL, Heal(ship="batch_norm"), data, CPU, never)
    assert list(networks) == [healed.shipped] == ["removed"]


def test_fine_tuning_is_the_variants_training_without_what_removes_blocks() -> None:
    variant = settings(penalty={"lambda": 5.0}, strategy={"name": "anneal"}, mixup_alpha=0.2)
    params = Heal(epochs=2, learning_rate=0.003, distill=HealDistill(weight=0.7, temperature=2.0))
    tuning = fine_tuning(variant, params)
    changed = {key for key, value in tuning if value != getattr(variant, key)}
    assert changed == {"epochs", "learning_rate", "penalty", "strategy", "distill"}
    assert (tuning.epochs, tuning.learning_rate, tuning.penalty.weight) == (2, 0.003, 0)
    assert tuning.strategy == Strategy()
    assert tuning.distill == Distill(weight=0.7, temperature=2.0)


def test_healing_recovers_accuracy(trained: nn.Module, data: Dataset, tmp_path: Path) -> None:
    network = bypass(trained, REMOVED)
    params = Heal(ship="healed", bn_samples=500, epochs=2, learning_rate=0.02)
    tuning = fine_tuning(settings(), params)

    def tune(level: Any, student: nn.Module) -> Any:
        options: Any = {"device": CPU, "checkpoint": tmp_path / "state.pt", "log": lambda _: None}
        return train(student, data, tuning, [], **options).history

    level = replace(LEVEL, val_accuracy_pct=validated(network, data))
    networks, healed = repair(network, level, params, data, CPU, tune)
    accuracies, healing = healed.val_accuracy_pct, healed.healing
    assert accuracies["removed"] < validated(trained, data) - 15
    assert accuracies["healed"] > accuracies["removed"] + 10
    assert accuracies["healed"] == validated(networks["healed"], data)
    assert healed.shipped == "healed"
    assert healing.images_seen == 2 * 500
    assert healing.macs_spent == 2 * 500 * count_macs(network, torch.zeros(1, 1, 32, 32))
    assert [epoch["epoch"] for epoch in healing.epochs] == [1, 2]


def test_a_distilled_step_is_the_one_taken_by_hand(
    trained: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    weight, temperature, rate = 0.6, 3.0, 0.05
    some = data.train.sample(48, seed=1)
    data = Dataset(**(vars(data) | {"train": some}))
    plain = {"flip": False, "crop_padding": 0, "batch_size": 48, "schedule": "constant"}
    distill = HealDistill(weight=weight, temperature=temperature)
    params = Heal(epochs=1, learning_rate=rate, distill=distill)
    student = bypass(trained, REMOVED)
    options: Any = {"device": CPU, "checkpoint": tmp_path / "state.pt", "log": lambda _: None}
    tuning = fine_tuning(settings(**plain), params)
    train(student, data, tuning, [], teacher=trained, **options)

    by_hand, teacher = bypass(trained, REMOVED).double().train(), bypass(trained, []).double()
    [(images, labels)] = data.batches(some, 48)
    with torch.no_grad():
        wanted = softmax(teacher(images.double()) / temperature, dim=1)
    logits = by_hand(images.double())
    own = log_softmax(logits / temperature, dim=1)
    taught = temperature**2 * kl_div(own, wanted, reduction="batchmean")
    ((1 - weight) * cross_entropy(logits, labels) + weight * taught).backward()
    for expected, tuned in zip(by_hand.parameters(), student.parameters(), strict=True):
        moved = (expected - rate * expected.grad).float()  # the first step of SGD with momentum
        torch.testing.assert_close(tuned, moved, rtol=1e-3, atol=2e-4)


IN_TRAINING = ["layer1.0", "layer1.1", "layer2.1"]  # removed there: fewer levels are faster
FACTS = [(90.0, 89.0, 4.0), (80.0, 89.5, 3.0), (70.0, 88.9, 2.0)]  # plain %, healed %, ms


@pytest.mark.parametrize(
    ("ship", "section", "expected"),
    [
        ("removed", {"max_accuracy_drop_pct": 1.0}, 0),
        ("healed", {"max_accuracy_drop_pct": 1.0}, 1),  # level 2 is below 89
        ("healed", {"max_accuracy_drop_pct": 1.2}, 2),
        ("healed", {"search": "latency_aware", "latency_budget_ms": 3.5}, 1),
        ("healed", {"search": "latency_aware", "latency_budget_ms": 2.5}, 2),
        ("removed", {"search": "latency_aware", "latency_budget_ms": 3.5}, 0),
    ],
)
def test_the_level_is_chosen_by_what_is_shipped(ship: Repair, section: dict, expected: int) -> None:
    always = {"criterion": "auto", "max_accuracy_drop_pct": 0.0}
    plan = Plan.model_validate(always | section)
    heal = Heal.model_validate({"ship": ship, "epochs": 1})
    planned, levels = [], []
    for n, (plain, healed, ms) in enumerate(FACTS):
        removed, accuracies = ["a", "b"][:n], {"removed": plain, "healed": healed}
        planned.append(PlannedLevel(n, removed, "identity", plain, {}, ms))
        levels.append(HealedLevel(n, removed, "identity", ship if n else "removed", accuracies))
    metrics = PlanMetrics("dense", plan.search, "msw", 0.0, ["a", "b"], {}, planned, 0)
    assert chosen_level(levels, metrics, heal, plan) == expected


@pytest.mark.parametrize(
    ("accuracies", "warned"),
    [
        ({"removed": 66.67, "batch_norm": 100.0}, True),
        ({"removed": 90.0, "batch_norm": 91.0}, False),  # within what images say
        ({"removed": 90.0, "batch_norm": 80.0}, False),
        ({"removed": 90.0}, False),  # no batch norm
    ],
)
def test_statistics_that_lag_behind_are_warned_of(accuracies: dict, warned: bool) -> None:
    warning = lagging(HealedLevel(0, [], "identity", "removed", accuracies))
    assert (warning is not None) == warned
    assert not warned or "100.00 % with batch norm re-estimated and 66.67 % without" in warning


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
    params = yaml.safe_load(FIXED.read_text(encoding="utf-8"))
    strategy = {"name": "remove_first", "until": 0.3, "remove": IN_TRAINING}
    params["variants"] = {"dense": {"train": {"strategy": strategy, "precision": "fp32"}}}
    params["plan"] |= {"replacement": "linear", "max_accuracy_drop_pct": 3.0}
    params["heal"] = HEAL | section
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def collapsed() -> CollapseMetrics:
    return read_record(metrics_path("collapse", "dense"), CollapseMetrics)


def run_repair(**section: object) -> HealMetrics:
    write_params(Path(), **section)
    heal.main("dense")
    return read_record(metrics_path("heal", "dense"), HealMetrics)


def test_by_default_every_level_is_shipped_as_planned(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    healed = run_repair(epochs=0)
    planned = read_record(metrics_path("plan", "dense"), PlanMetrics)
    assert healed.chosen_level == planned.chosen_level
    assert not any(Path("artifacts/heal/dense").iterdir())
    for own, level in zip(healed.levels, planned.levels, strict=True):
        assert own.val_accuracy_pct["removed"] == level.val_accuracy_pct
        assert (own.removed, own.shipped, own.healing) == (level.removed, "removed", None)
        assert 0 < own.val_accuracy_pct["batch_norm"] <= 100
    collapse.main("dense")
    assert [level.made_by for level in collapsed().levels] == ["collapse"] * 3


@pytest.mark.parametrize("ship", ["batch_norm", "healed"])
def test_a_repaired_levels_graph_is_the_repaired_network(
    project: Path, monkeypatch: pytest.MonkeyPatch, ship: Repair
) -> None:
    monkeypatch.chdir(project)
    healed = run_repair(ship=ship)
    collapse.main("dense")
    model, _, data = load_trained("dense")
    images = data.normalised(data.test.sample(100))
    kept = sorted(path.name for path in Path("artifacts/collapse/dense").iterdir())
    assert kept == [f"level_{number}.onnx" for number in range(3)]
    for level, own in zip(collapsed().levels, healed.levels, strict=True):
        number, removed = own.level, own.removed
        graph = Path("artifacts/collapse/dense", level.file)
        weights = Path(f"artifacts/heal/dense/level_{number}.safetensors")
        logits = runner(graph)(images.numpy())
        assert weights.exists() == bool(removed)
        assert level.made_by == ("export" if removed else "collapse")
        if not removed:
            continue
        fitted = load_replacements(Path(f"artifacts/plan/dense/level_{number}.safetensors"))
        network = bypass(model, removed, fitted).eval()
        as_planned = network(images).detach().numpy()
        zoo.load_weights(network, weights)
        assert compare(network(images).detach().numpy(), logits).max_rel < 1e-4
        assert compare(as_planned, logits).max_rel > 1e-2
        assert_same_weights(shipped_network(model, "dense", own), network)
        assert list(maps_in(network, removed)) == removed
        assert level.val_accuracy_pct == pytest.approx(own.shipped_accuracy_pct, abs=0.5)
        there = {"layer3.1", "layer4.1"} - {*removed}
        assert {b.name for b in read_boundaries(load_onnx(graph)).values() if not b.reason} == there
    floor = healed.levels[0].val_accuracy_pct["removed"] - 3.0
    good = [own.level for own in healed.levels if own.shipped_accuracy_pct >= floor]
    assert healed.chosen_level == max(good)


def test_healing_from_the_whole_network_counts_the_teacher(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    plain = run_repair()
    taught = run_repair(distill={"weight": 0.5, "temperature": 2.0})
    model, spec, data = load_trained("dense")
    for alone, distilled in zip(plain.levels[1:], taught.levels[1:], strict=True):
        teacher = 2 * len(data.train) * count_macs(model, spec.example())
        student = count_macs(planned_network(model, "dense", distilled), spec.example())
        assert alone.healing.macs_spent == 2 * len(data.train) * student
        assert distilled.healing.macs_spent == alone.healing.macs_spent + teacher
        assert alone.healing.epochs[0]["loss"] != distilled.healing.epochs[0]["loss"]


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
    metrics = metrics_path("heal", "dense")
    whole, folder = read_json(metrics), project / "artifacts/heal/dense"
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
    states = [*(project / ".cache/checkpoints").glob("*/*.pt")]
    assert len([state for state in states if ".before" not in state.name]) == 2
    again = run_stage("heal", "dense", cwd=project, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    # The times in these lines show that what was finished was not done again.
    assert set(seen) <= set(again.stdout.splitlines(keepends=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == weights
    assert without_timings(read_json(metrics)) == without_timings(whole)
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
        with pytest.raises(ArtifactError, match=r"level_2\.safetensors (holds no|is damaged)"):
            shipped_network(model, "dense", healed.levels[2])
    path.unlink()
    with pytest.raises(ArtifactError, match=r"level_2\.safetensors is missing; `dvc repro` makes"):
        shipped_network(model, "dense", healed.levels[2])


def test_shipping_what_is_not_made_is_refused(tmp_path: Path) -> None:
    write_params(tmp_path, ship="healed", epochs=0)
    with pytest.raises(ParamsError, match=r"params\.yaml: heal: ship 'healed' needs epochs above"):
        load_params(tmp_path / "params.yaml")
    write_params(tmp_path, ship="heeled")
    with pytest.raises(ParamsError, match=r"heal\.ship = 'heeled'"):
        load_params(tmp_path / "params.yaml")
