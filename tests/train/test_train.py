"""Training: it learns, it is the same again, and it survives being killed."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainings import assert_same_weights, fresh, settings, without_timings

from models.errors import ArtifactError, ShoalError
from models.saving import load_state, save_state
from pipeline.data import Dataset, batches, load
from pipeline.devices import pick_device, pick_precision
from pipeline.evaluate import accuracy_pct
from pipeline.optimizers import learning_rate
from pipeline.parallel import PARALLEL, Replicas
from pipeline.params import Train
from pipeline.train import EpochLog, train

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
AUGMENTED = {
    "vertical_flip": True,
    "random_resized_crop": 0.5,
    "rotation_degrees": 10.0,
    "color_jitter": 0.2,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 0.8,
}


@pytest.fixture
def data(prepared: Path) -> Dataset:
    return load(prepared)


def run(data: Dataset, params: Train, checkpoint: Path) -> tuple[nn.Module, list[EpochLog]]:
    model, blocks = fresh()
    trained = train(
        model,
        data,
        params,
        blocks,
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        log=lambda _: None,
    )
    return model, trained.history


def test_it_learns_and_reports_every_epoch(data: Dataset, tmp_path: Path) -> None:
    _model, history = run(data, settings(penalty={"lambda": 0.0}), tmp_path / "state.pt")
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert history[-1]["task_loss"] < history[0]["task_loss"]
    assert history[-1]["val_accuracy_pct"] > 30  # ten classes: chance is 10
    assert all(entry["penalty"] == 0 for entry in history)
    assert set(history[0]["distances"]) == {unit.name for unit in fresh()[1]}
    assert all(entry["images_per_s"] > 0 for entry in history)


def test_the_penalty_keeps_the_distances_low(data: Dataset, tmp_path: Path) -> None:
    _, free = run(data, settings(penalty={"lambda": 0.0}), tmp_path / "free.pt")
    _, held = run(data, settings(penalty={"lambda": 5.0}), tmp_path / "held.pt")
    without, with_penalty = (sum(h[-1]["distances"].values()) for h in (free, held))
    assert with_penalty < 0.6 * without  # their mean is what is penalised
    last = held[-1]
    assert last["loss"] == pytest.approx(last["task_loss"] + 5 * last["penalty"])


def test_the_same_seed_gives_the_same_weights(data: Dataset, tmp_path: Path) -> None:
    first, history = run(data, settings(), tmp_path / "a.pt")
    second, again = run(data, settings(), tmp_path / "b.pt")
    assert_same_weights(first, second)
    assert without_timings(history) == without_timings(again)
    _, other = run(data, settings(seed=1), tmp_path / "c.pt")
    assert without_timings(other) != without_timings(history)


POWER = {"penalty": {"lambda": 1.0, "estimator": "power"}}  # remembers directions between steps
PARTS = {"images_per_epoch": 100}
STOPPED = {"plain": {}, "augmented": AUGMENTED, "power": POWER, "parts": PARTS}


@pytest.mark.parametrize("changes", STOPPED.values(), ids=STOPPED)
def test_a_run_stopped_after_any_epoch_continues_to_the_same_weights(
    data: Dataset, tmp_path: Path, changes: dict
) -> None:
    params = settings(**changes)
    whole, history = run(data, params, tmp_path / "whole.pt")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(entry: EpochLog) -> None:
        if entry["epoch"] == 2:
            raise Stopped

    model, blocks = fresh()
    options = {"device": torch.device("cpu"), "checkpoint": tmp_path / "state.pt"}
    with pytest.raises(Stopped):
        train(model, data, params, blocks, log=stop, **options)
    seen: list[int] = []
    model, blocks = fresh()
    continued = train(model, data, params, blocks, log=lambda e: seen.append(e["epoch"]), **options)
    assert seen == [1, 2, 3]  # the observer gets the past again, then the rest
    assert_same_weights(model, whole)
    assert without_timings(continued.history) == without_timings(history)


def test_an_epoch_may_see_a_part_of_the_images_another_each_time(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[bytes]] = []

    def watched(split, *arguments, **options):
        if options.get("generator") is not None:
            images = split.images[options["rows"]]
            seen.append({image.numpy().tobytes() for image in images})
        return batches(split, *arguments, **options)

    monkeypatch.setattr("pipeline.epochs.batches", watched)
    _, history = run(data, settings(images_per_epoch=100), tmp_path / "state.pt")
    assert [entry["images_seen"] for entry in history] == [100] * 3
    assert len(seen[0] | seen[1] | seen[2]) > 150
    whole = {image.numpy().tobytes() for image in data.train.images}
    assert all(part < whole for part in seen)


KILLED = """
import sys, torch
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
import test_train as t
torch.set_num_threads(1)
t.run(t.load(Path({prepared!r})), t.settings(epochs=6), Path({checkpoint!r}))
"""


def test_kill_9_in_the_middle_of_an_epoch_changes_nothing(
    data: Dataset, prepared: Path, tmp_path: Path
) -> None:
    whole, history = run(data, settings(epochs=6), tmp_path / "whole.pt")
    checkpoint = tmp_path / "state.pt"
    code = KILLED.format(
        root=str(ROOT),
        tests=str(ROOT / "tests"),
        prepared=str(prepared),
        checkpoint=str(checkpoint),
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(history[0]["seconds"] / 2)
        process.kill()
    assert process.returncode == -9
    assert 1 <= len(torch.load(checkpoint, weights_only=True)["history"]) < 6
    continued, again = run(data, settings(epochs=6), checkpoint)
    assert_same_weights(continued, whole)
    assert without_timings(again) == without_timings(history)


def test_mixed_labels_are_learnt_from(data: Dataset, tmp_path: Path) -> None:
    mixed = settings(mixup_alpha=0.2, cutmix_alpha=0.2, penalty={"lambda": 0.0})
    _, history = run(data, mixed, tmp_path / "state.pt")
    assert history[-1]["task_loss"] < history[0]["task_loss"]
    assert history[-1]["val_accuracy_pct"] > 20  # ten classes: chance is 10


def test_validation_images_are_never_augmented(data: Dataset, tmp_path: Path) -> None:
    """A network that training leaves as it is has the accuracy that it has on plain images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10))
    plain = batches(data.validation, 256, mean=data.mean, std=data.std, device="cpu")
    expected = accuracy_pct(model, plain)
    still = settings(epochs=1, learning_rate=1e-30, penalty={"lambda": 0.0}, **AUGMENTED)
    trained = train(
        model,
        data,
        still,
        [],
        device=torch.device("cpu"),
        checkpoint=tmp_path / "state.pt",
        log=lambda _: None,
    )
    assert trained.history[0]["val_accuracy_pct"] == expected


def test_a_damaged_checkpoint_is_named(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    run(data, settings(epochs=1), checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(ArtifactError, match=r"state\.pt is damaged"):
        run(data, settings(), checkpoint)


def test_the_state_of_another_training_is_named(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    run(data, settings(epochs=1), checkpoint)
    state = load_state(checkpoint)
    state["model"] = dict(list(state["model"].items())[1:])
    save_state(state, checkpoint)
    with pytest.raises(ArtifactError, match=r"state\.pt is damaged .*Missing key"):
        run(data, settings(), checkpoint)


class TornReplicas(Replicas):
    """Processes of which one goes away."""

    def scatter(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1234")


def test_a_connection_that_breaks_is_not_blamed_on_the_checkpoint(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, settings(epochs=1), tmp_path / "state.pt")
    monkeypatch.setitem(PARALLEL, "ddp", TornReplicas)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        run(data, settings(), tmp_path / "state.pt")


def test_a_loss_that_is_not_finite_stops_with_advice(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match=r"in epoch 1; lower learning_rate"):
        run(data, settings(learning_rate=1e20), tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_a_penalty_without_a_removable_block_is_an_error(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match="needs a removable block"):
        train(
            fresh()[0],
            data,
            settings(),
            [],
            device=torch.device("cpu"),
            checkpoint=tmp_path / "state.pt",
            log=lambda _: None,
        )


def test_bf16_learns_too(data: Dataset, tmp_path: Path) -> None:
    _, history = run(data, settings(precision="bf16"), tmp_path / "state.pt")
    assert history[-1]["task_loss"] < history[0]["task_loss"]


def test_adam_learns_too(data: Dataset, tmp_path: Path) -> None:
    params = settings(optimizer="adam", learning_rate=0.002)
    _, history = run(data, params, tmp_path / "state.pt")
    assert history[-1]["task_loss"] < history[0]["task_loss"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0.0: 1.0, 0.5: 1.0, 0.99: 1.0}),
        ("cosine", {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}),
        ("step", {0.0: 1.0, 0.5: 0.1, 0.75: 0.01}),
    ],
)
def test_schedules(schedule: str, expected: dict[float, float]) -> None:
    params = settings(schedule=schedule, learning_rate=1.0, milestones=[0.5, 0.75])
    for done, rate in expected.items():
        assert learning_rate(done, params) == pytest.approx(rate)


def test_warm_up_rises_linearly_and_meets_the_schedule() -> None:
    params = settings(schedule="cosine", learning_rate=2.0, warmup_fraction=0.2)
    assert learning_rate(0.0, params) == 0
    assert learning_rate(0.1, params) == pytest.approx(1)
    assert learning_rate(0.2, params) == pytest.approx(2)
    assert learning_rate(0.6, params) == pytest.approx(1)


def test_precision_follows_the_device() -> None:
    cpu = torch.device("cpu")
    assert pick_precision("fp32", cpu) == torch.float32
    assert pick_precision("bf16", cpu) == torch.bfloat16
    fast = torch.cpu.get_capabilities()
    bf16 = bool(fast.get("avx512_bf16") or fast.get("amx_bf16"))
    assert pick_precision("auto", cpu) == (torch.bfloat16 if bf16 else torch.float32)
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
