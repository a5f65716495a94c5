"""Learning from a teacher: the loss against its formula, and what it does in a training."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import FIXED
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from trainings import (
    Stopped,
    assert_same_weights,
    fresh,
    settings,
    stop_after,
    without_timings,
)

from models.cost import count_macs
from models.errors import ParamsError
from pipeline.core.params import Distill
from pipeline.core.params.loading import load_params
from pipeline.data.dataset import Dataset, load
from pipeline.train.distillation import task_loss
from pipeline.train.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.zeros(1, 1, 32, 32)
CPU = torch.device("cpu")


def teacher_giving(logits: torch.Tensor) -> nn.Module:
    class Constant(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return logits

    return Constant()


def by_hand(wanted, own, labels, weight, temperature):  # in NumPy's terms, in float64
    p, q = (torch.softmax(t.double() / temperature, dim=1) for t in (wanted, own))
    divergence = (p * (p / q).log()).sum(dim=1).mean()
    rows = torch.arange(len(labels))
    labelled = -torch.softmax(own.double(), dim=1)[rows, labels].log().mean()
    return (1 - weight) * labelled + weight * temperature**2 * divergence


@given(st.integers(0, 2**20), st.floats(0, 1), st.floats(0.5, 10))
def test_the_loss_is_its_formula(seed: int, weight: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted, own = (3 * torch.randn(6, 5, generator=generator) for _ in range(2))
    labels = torch.randint(5, (6,), generator=generator)
    params = Distill(weight=weight, temperature=temperature)
    loss = task_loss(teacher_giving(wanted), params, CPU, torch.float32)(IMAGES, own, labels)
    expected = by_hand(wanted, own, labels, weight, temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


def test_without_weight_the_labels_alone_count_also_as_shares() -> None:
    own, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    shares = one_hot(labels, 3).float()
    for teacher in (teacher_giving(-own), None):
        loss = task_loss(teacher, Distill(weight=0.0), CPU, torch.float32)
        for given_labels in (labels, shares):
            torch.testing.assert_close(loss(IMAGES, own, given_labels), cross_entropy(own, labels))


def test_a_student_that_agrees_learns_nothing_from_the_teacher() -> None:
    own = torch.randn(4, 3, requires_grad=True)
    loss = task_loss(teacher_giving(own.detach()), Distill(weight=1.0), CPU, torch.float32)
    (gradient,) = torch.autograd.grad(loss(IMAGES, own, torch.zeros(4, dtype=torch.int64)), own)
    torch.testing.assert_close(gradient, torch.zeros_like(own), rtol=0, atol=1e-6)


@pytest.fixture
def data(prepared: Path) -> Dataset:
    return load(prepared)


def run(data: Dataset, checkpoint: Path, teacher: nn.Module | None, log=lambda _: None, **changes):
    model, blocks = fresh()
    options = {"device": CPU, "checkpoint": checkpoint, "log": log}
    params = settings(penalty={"lambda": 0.0}, **changes)
    return model, train(model, data, params, blocks, teacher=teacher, **options).history


def test_students_follow_their_teacher_and_leave_it_as_it_is(data: Dataset, tmp_path: Path) -> None:
    teacher, _ = run(data, tmp_path / "teacher.pt", None)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    taught, history = run(data, tmp_path / "taught.pt", teacher, distill={"weight": 1.0}, seed=1)
    alone, _ = run(data, tmp_path / "alone.pt", None, seed=1)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    images = data.normalised(data.validation)
    with torch.no_grad():
        wanted, *students = (
            torch.log_softmax(model.eval()(images), dim=1) for model in (teacher, taught, alone)
        )
    near, far = (
        nn.functional.kl_div(s, wanted, reduction="batchmean", log_target=True).item()
        for s in students
    )
    assert near < far
    macs = count_macs(teacher, IMAGES)
    assert history[0]["macs_spent"] == 2 * macs * len(data.train)  # the teacher's passes count


def test_a_taught_training_that_was_stopped_continues_to_the_same_weights(
    data: Dataset, tmp_path: Path
) -> None:
    teacher, _ = fresh()
    whole, history = run(data, tmp_path / "whole.pt", teacher)
    with pytest.raises(Stopped):
        run(data, tmp_path / "state.pt", teacher, log=stop_after(1))
    continued, again = run(data, tmp_path / "state.pt", teacher)
    assert_same_weights(whole, continued)
    assert without_timings(again) == without_timings(history)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{a: {train: {distill: {teacher: b}}}}", "'b', which is no other variant"),
        ("{a: {train: {distill: {teacher: a}}}, c: {}}", "teacher may be c"),
        (
            "{a: {train: {distill: {teacher: b}}}, b: {train: {distill: {teacher: c}}}, c: {}}",
            "which has a teacher itself",
        ),
    ],
)
def test_a_teacher_is_another_variant_that_has_none(
    variants: str, message: str, tmp_path: Path
) -> None:
    text = FIXED.read_text(encoding="utf-8")
    before, _, rest = text.partition("\nvariants:\n")
    after = rest.partition("\n\n")[2]
    path = tmp_path / "params.yaml"
    path.write_text(f"{before}\nvariants: {variants}\n\n{after}", encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        load_params(path)
