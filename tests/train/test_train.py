"""Training: it learns, it is the same again, and it survives being killed."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from torch import nn
from trainings import (
    Stopped,
    assert_same_weights,
    fresh,
    settings,
    stop_after,
    without_timings,
)

from models.errors import ArtifactError, OutOfMemoryError, ShoalError
from models.weights.loading import state_sha256
from models.weights.saving import load_state, save_state
from models.zoo import create
from pipeline.core.devices import pick_device, pick_precision
from pipeline.core.params import Train
from pipeline.data.dataset import Dataset, Split, load
from pipeline.train.epoch import DivergedError, require_finite
from pipeline.train.loop import train
from pipeline.train.optimizers import learning_rate
from pipeline.train.parallel import PARALLEL, Replicas

pytestmark = pytest.mark.usefixtures("one_thread")

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


def run(data: Dataset, params: Train, checkpoint: Path, network=None, log=lambda _: None):
    model, blocks = network or fresh()
    options = {"device": torch.device("cpu"), "checkpoint": checkpoint, "log": log}
    return model, train(model, data, params, blocks, **options).history


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


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_the_same_seed_gives_the_same_weights_on_maps_of_one_pixel(
    data: Dataset, tmp_path: Path, precision: str
) -> None:
    """timm's ResNet-18 has 1×1 maps at 16 pixels, under 3×3 kernels."""
    few = {name: split[:24] for name, split in vars(data).items() if isinstance(split, Split)}
    small = {name: Split(s.images[:, :, ::2, ::2], s.labels) for name, s in few.items()}
    data = dataclasses.replace(data, **small, image_size=16)
    params = settings(epochs=1, batch_size=12, precision=precision, penalty={"lambda": 0.0})
    weights = []
    for i in range(2):
        torch.manual_seed(0)
        network = create("resnet18", 10, in_chans=1), []
        model, _ = run(data, params, tmp_path / f"{i}.pt", network=network)
        weights.append(state_sha256(model))
        for size in (2**16, 2**20, 2**22):  # what is freed is used again, as it is
            torch.full((size,), torch.nan)
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (nn.Parameter(torch.tensor([0.0, 2e25])), "are beyond 1,000,000"),
        (nn.Parameter(torch.tensor([0.0, -2e25])), "are beyond 1,000,000"),
        (nn.Parameter(torch.tensor([0.0, torch.nan])), "are not finite"),
        (torch.tensor([0.0, torch.inf]), "are not finite"),
    ],
)
def test_weights_beyond_reason_end_an_epoch(value: torch.Tensor, why: str) -> None:
    with pytest.raises(DivergedError, match=f"^it {why} in epoch 1; lower learning_rate"):
        require_finite({"it": value}, 1, settings(), None)
    require_finite({"a statistic": torch.tensor([2e25])}, 1, settings(), None)


POWER = {"penalty": {"lambda": 1.0, "estimator": "power"}}  # remembers directions between steps
PARTS = {"images_per_epoch": 100}
STOPPED = {"plain": {}, "augmented": AUGMENTED, "power": POWER, "parts": PARTS}


@pytest.mark.parametrize("changes", STOPPED.values(), ids=STOPPED)
def test_a_run_stopped_after_any_epoch_continues_to_the_same_weights(
    data: Dataset, tmp_path: Path, changes: dict
) -> None:
    params = settings(**changes)
    whole, history = run(data, params, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        run(data, params, tmp_path / "state.pt", log=stop_after(2))
    seen: list[int] = []
    model, again = run(data, params, tmp_path / "state.pt", log=lambda e: seen.append(e["epoch"]))
    assert seen == [1, 2, 3]  # the observer gets the past again, then the rest
    assert_same_weights(model, whole)
    assert without_timings(again) == without_timings(history)


def test_an_epoch_may_see_a_part_of_the_images_another_each_time(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[bytes]] = []

    serve = Dataset.batches

    def watched(self, split, *arguments, **options):
        if options.get("generator") is not None:
            images = split.images[options["rows"]]
            seen.append({image.numpy().tobytes() for image in images})
        return serve(self, split, *arguments, **options)

    monkeypatch.setattr(Dataset, "batches", watched)
    _, history = run(data, settings(images_per_epoch=100), tmp_path / "state.pt")
    assert [entry["images_seen"] for entry in history] == [100] * 3
    assert len(seen[0] | seen[1] | seen[2]) > 150
    whole = {image.numpy().tobytes() for image in data.train.images}
    assert all(part < whole for part in seen)


KILLED = """
import sys, torch
sys.path[:0] = {path!r}
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
        path=[str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)],
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
    expected = data.validation_accuracy_pct(model)
    still = settings(epochs=1, learning_rate=1e-30, penalty={"lambda": 0.0}, **AUGMENTED)
    _, history = run(data, still, tmp_path / "state.pt", network=(model, []))
    assert history[0]["val_accuracy_pct"] == expected


def test_a_damaged_checkpoint_is_named(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    run(data, settings(epochs=1), checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(ArtifactError, match=r"state\.pt is damaged"):
        run(data, settings(), checkpoint)


@pytest.mark.parametrize("left", [0, 500, -1], ids=["empty", "truncated", "flipped"])
def test_a_damaged_last_state_costs_one_epoch_and_a_warning(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture, left: int
) -> None:
    few = dataclasses.replace(data, train=data.train[:64], validation=data.validation[:64])
    params = settings(epochs=5)
    whole, history = run(few, params, tmp_path / "whole.pt")
    checkpoint = tmp_path / "state.pt"
    for stop in (2, 4):  # once more after it was continued
        with pytest.raises(Stopped):
            run(few, params, checkpoint, log=stop_after(stop))
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        checkpoint.write_bytes(content if left < 0 else content[:left])
    seen: list[int] = []
    capsys.readouterr()
    model, again = run(few, params, checkpoint, log=lambda e: seen.append(e["epoch"]))
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: checkpoint {checkpoint} is damaged (")
    assert warning.endswith("); the one an epoch before is taken")
    assert len(load_state(checkpoint)["history"]) == 5
    assert_same_weights(model, whole)
    assert without_timings(again) == without_timings(history)


def test_a_state_lost_between_two_names_is_that_of_the_epoch_before(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = dataclasses.replace(data, train=data.train[:64], validation=data.validation[:64])
    with pytest.raises(Stopped):
        run(few, settings(), tmp_path / "state.pt", log=stop_after(2))
    (tmp_path / "state.pt").unlink()  # killed between the two renames
    seen: list[float] = []
    run(few, settings(), tmp_path / "state.pt", log=lambda e: seen.append(e["seconds"]))
    assert len(seen) == 3
    assert capsys.readouterr().err.count("warning") == 0


def test_the_state_of_another_training_is_named(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    run(data, settings(epochs=1), checkpoint)
    state = load_state(checkpoint)
    state["model"] = dict(list(state["model"].items())[1:])
    save_state(state, checkpoint)
    with pytest.raises(ArtifactError, match=r"state\.pt is damaged .*Missing key"):
        run(data, settings(), checkpoint)


class TornReplicas(Replicas):
    """Processes of which one is lost."""

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


class Pair(nn.Module):
    """What some networks give in training: logits, and those of a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32 * 32, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...] | torch.Tensor:
        logits = self.linear(x.flatten(1))
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: create("test_resnet", 10, in_chans=1, features_only=True), "a list"),
        (lambda: create("test_resnet", 9, in_chans=1), r"\(32, 9\)"),
        (lambda: nn.Conv2d(1, 10, 3), r"\(32, 10, 30, 30\)"),
        (Pair, "a tuple"),
    ],
)
def test_what_is_no_classifier_is_named(
    data: Dataset, tmp_path: Path, make: Callable[[], nn.Module], what: str
) -> None:
    message = rf"gives {what} for 32 images and 10 classes.*leave out of model\.options"
    with pytest.raises(ShoalError, match=message):
        run(data, settings(penalty={"lambda": 0.0}), tmp_path / "s.pt", network=(make(), []))


def test_the_advice_on_memory_is_what_helps(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shortage(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 ")

    quick = {"images_per_epoch": 40, "penalty": {"lambda": 0.0}}
    monkeypatch.setattr("pipeline.train.loop.validated", shortage)
    with pytest.raises(
        OutOfMemoryError, match=r"lower prepare\.image_size \(now 32\), take a smaller"
    ):
        run(data, settings(**quick), tmp_path / "a.pt")
    monkeypatch.setattr("pipeline.train.loop.require_logits", shortage)
    for batch_size, advice in ((20, r"train\.batch_size \(now 20\)"), (2, r"prepare\.image_size")):
        with pytest.raises(OutOfMemoryError, match=f"lower {advice}"):
            run(data, settings(**quick, batch_size=batch_size), tmp_path / "b.pt")


def test_a_penalty_without_a_removable_block_is_an_error(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match="needs a removable block"):
        run(data, settings(), tmp_path / "state.pt", network=(fresh()[0], []))


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"optimizer": "adam", "learning_rate": 0.002}]
)
def test_bf16_and_adam_learn_too(changes: dict, data: Dataset, tmp_path: Path) -> None:
    _, history = run(data, settings(**changes), tmp_path / "state.pt")
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
    assert pick_precision("auto", cpu) == torch.float32  # whatever it is faster with
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
