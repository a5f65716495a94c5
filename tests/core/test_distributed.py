"""Two processes that share a batch compute what one process with the whole batch computes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_worker import CUT_UP, POWER, SHARED, WITH_BATCH_NORM, run, trained
from hypothesis import given
from hypothesis import strategies as st
from places import IMPORTS, ROOT
from trainings import without_timings

from pipeline.core.distributed import Share
from pipeline.data.dataset import load

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> list[dict]:
    """What each of two processes computed, started as users start them."""
    folder = tmp_path_factory.mktemp("ddp")
    worker = str(ROOT / "tests" / "core" / "ddp_worker.py")
    done = subprocess.run(
        [*LAUNCH, worker, str(folder), "gloo", str(prepared)],
        check=False,
        timeout=400,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": IMPORTS, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["random", "power"])
def test_the_distance_and_its_gradients_are_those_of_the_global_batch(
    name: str, shared: list[dict]
) -> None:
    whole = run(name, slice(0, 12))
    for computed in shared:
        assert computed[name].keys() == whole.keys()
        for key, expected in whole.items():
            torch.testing.assert_close(
                computed[name][key],
                expected,
                rtol=1e-5,
                atol=1e-5,
                msg=lambda m, k=key: f"{k}: {m}",
            )


def test_the_ascent_climbs_to_the_same_distance(shared: list[dict]) -> None:
    # From the same starts; rounding lets climbs over a function with kinks end on other tops.
    whole = run("ascent", slice(0, 12))["penalty 0"]
    first, second = (computed["ascent"]["penalty 0"] for computed in shared)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, rtol=0.01, atol=0)


def test_the_first_process_decides_for_all(shared: list[dict]) -> None:
    assert [computed["from first"] for computed in shared] == [0, 0]


def test_two_images_for_each_process_are_the_least(shared: list[dict]) -> None:
    for computed in shared:
        assert "train.batch_size is 3, and 2 processes need two images" in computed["too few"]


@given(st.integers(0, 500), st.integers(1, 40))
def test_parts_of_a_batch_are_all_of_it_in_order_and_about_equal(n: int, processes: int) -> None:
    parts = [range(n)[Share(rank, processes).rows(n)] for rank in range(processes)]
    assert [row for part in parts for row in part] == list(range(n))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


# --- whole trainings ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, dict[str, Any]]:
    folder, data = tmp_path_factory.mktemp("alone"), load(prepared)
    return {name: trained(data, changes, folder / f"{name}.pt") for name, changes in SHARED.items()}


def assert_same_training(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Weights, losses, distances, accuracies and decisions agree, up to rounding."""
    assert got["removed"] == expected["removed"]
    assert got["weights"].keys() == expected["weights"].keys()
    for key, value in expected["weights"].items():
        torch.testing.assert_close(got["weights"][key], value, rtol=1e-4, atol=1e-5)
    ours, theirs = (without_timings(training["history"]) for training in (got, expected))
    for entry, wanted in zip(ours, theirs, strict=True):
        assert entry.pop("distances") == pytest.approx(wanted.pop("distances"), rel=1e-4, abs=1e-5)
        for exact in ("removed", "macs_spent", "images_seen"):
            assert entry.pop(exact) == wanted.pop(exact)
        assert entry.pop("val_accuracy_pct") == pytest.approx(
            wanted.pop("val_accuracy_pct"), abs=0.2
        )
        assert entry == pytest.approx(wanted, rel=1e-5)  # losses, penalty, learning rate


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_train_what_one_trains(
    name: str, shared: list[dict], alone: dict[str, dict]
) -> None:
    for computed in shared:
        assert_same_training(computed["trainings"][name], alone[name])


@pytest.mark.parametrize("name", [*SHARED, *CUT_UP, *POWER])
def test_a_continued_training_ends_where_the_whole_one_does(name: str, shared: list[dict]) -> None:
    for computed in shared:
        whole, continued = (computed["trainings"][f"{name}{way}"] for way in ("", ", continued"))
        for key, value in whole["weights"].items():
            assert torch.equal(continued["weights"][key], value), key
        assert without_timings(continued["history"]) == without_timings(whole["history"])


def test_a_network_cut_up_is_trained_as_one_that_is_whole_everywhere(
    shared: list[dict], alone: dict[str, dict]
) -> None:
    first, second = (computed["trainings"]["fsdp"] for computed in shared)
    assert_same_training(first, alone["penalty"])
    assert without_timings(second["history"]) == without_timings(first["history"])


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_batch_norm_has_the_statistics_of_all_processes(name: str, shared: list[dict]) -> None:
    first, second = (computed["trainings"][name] for computed in shared)
    assert without_timings(second["history"]) == without_timings(first["history"])
    assert first["history"][-1]["task_loss"] < first["history"][0]["task_loss"]
    if "fsdp" not in name:
        for key, value in first["weights"].items():
            assert torch.equal(second["weights"][key], value), key
