"""Two processes that share a batch compute what one process with the whole batch computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddp_worker import run

ROOT = Path(__file__).parent.parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes computed, started as users start them."""
    folder = tmp_path_factory.mktemp("ddp")
    worker = str(ROOT / "tests" / "ddp_worker.py")
    subprocess.run(
        [*LAUNCH, worker, str(folder), "gloo"],
        check=True,
        timeout=240,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
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
