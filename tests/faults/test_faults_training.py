"""Trainings that leave the finite numbers or the memory: one message that says what to change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_server import StageServer
from undisturbed import STAGES, VARIANT, Undisturbed

GIB = 2**30


def edit_params(project: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def train(project: Path, server: StageServer, **options: Any) -> str:
    """Train, which must fail with one line; return it."""
    ended = server.run(project, "train", VARIANT, **options)
    assert ended.code == 1, ended.output
    [line] = ended.errors.splitlines()
    assert line.startswith("error: ")
    assert not (project / "artifacts/train" / VARIANT).exists()
    return line


@pytest.fixture
def project(base: Undisturbed, tmp_path: Path) -> Path:
    return base.copy(tmp_path / "project", "train")


@pytest.mark.fault("loss that is not finite")
def test_a_loss_that_is_not_finite_names_the_last_good_epoch_which_can_be_continued_from(
    project: Path, server: StageServer
) -> None:
    def rise(params: dict[str, Any]) -> None:
        params["train"] |= {"learning_rate": 500.0, "warmup_fraction": 0.9, "epochs": 600}
        params["train"] |= {"precision": "fp32"}  # how many epochs end well depends on it
        params["variants"][VARIANT] = {}

    edit_params(project, rise)
    line = train(project, server)
    assert "lower learning_rate (now 500.0)" in line
    checkpoint = line.rpartition("model.weights to ")[2]
    assert train(project, server) == line  # from the last good epoch on, so within a second

    def lower(params: dict[str, Any]) -> None:
        params["train"] |= {"learning_rate": 0.01, "epochs": 1}
        params["model"]["weights"] = checkpoint

    edit_params(project, lower)
    ended = server.run(project, "train", VARIANT)
    assert (ended.code, ended.errors) == (0, "")
    trained = json.loads((project / STAGES["train"].outputs[1]).read_text(encoding="utf-8"))
    assert checkpoint in trained["initial_weights"]["origin"]


@pytest.mark.fault("loss that is not finite")
def test_weights_that_the_last_step_of_all_blew_up_are_not_kept(
    project: Path, server: StageServer
) -> None:
    def blow_up(params: dict[str, Any]) -> None:
        # One step: its loss is that of the weights before it.
        params["train"] |= {"epochs": 1, "batch_size": 1000, "warmup_fraction": 0.0}
        params["train"] |= {"learning_rate": 1e5, "penalty": {"lambda": 1e36}}

    edit_params(project, blow_up)
    line = train(project, server)
    assert "not finite in epoch 1; lower learning_rate (now 100000.0) or penalty.lambda" in line
    assert line.endswith("no epoch ended well")


@pytest.mark.fault("batch that does not fit into memory")
def test_a_batch_larger_than_the_memory_says_what_to_lower(
    project: Path, server: StageServer
) -> None:
    edit_params(project, lambda params: params["prepare"].update({"image_size": 768}))
    assert server.run(project, "prepare").code == 0
    line = train(project, server, limits={"AS": server.size_bytes() + GIB})
    assert "the memory is not enough" in line
    assert "lower train.batch_size (now 16)" in line


@pytest.mark.fault("batch that does not fit into memory")
def test_a_sample_larger_than_the_memory_says_what_to_lower(
    base: Undisturbed, server: StageServer, tmp_path: Path
) -> None:
    project = base.copy(tmp_path / "project", "score")
    ended = server.run(project, "score", VARIANT, limits={"AS": server.size_bytes() + 2**24})
    assert ended.code == 1
    [line] = ended.errors.splitlines()
    assert "the memory is not enough" in line
    assert "score.samples" in line
