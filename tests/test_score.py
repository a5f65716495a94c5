"""The criteria: what each ranks by, on a network whose blocks are known."""

from pathlib import Path

import pytest
import torch

from models.blocks import find_blocks
from models.surgery import bypass
from models.zoo import create
from pipeline.activations import BlockStatistics
from pipeline.data import Dataset, batches, load
from pipeline.evaluate import accuracy_pct
from pipeline.params import Score
from pipeline.score import CRITERIA, Evidence, score

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scored(prepared: Path) -> tuple[torch.nn.Module, list[str], Dataset, dict]:
    data = load(prepared)
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8).eval()
    with torch.no_grad():  # a block after a ReLU whose branch adds nothing is the identity
        model.get_submodule("layer3.1.bn2").weight.zero_()
        model.get_submodule("layer3.1.bn2").bias.zero_()
    found = find_blocks(model, torch.zeros(2, 1, 32, 32))
    names = [block.name for block in found if block.removable]
    params = Score(samples=200, projections=20)
    return model, names, data, score(model, names, data, params, CPU)


def test_every_criterion_scores_every_block(scored: tuple) -> None:
    _, names, _, result = scored
    assert set(result["scores"]) == set(CRITERIA)
    for values in result["scores"].values():
        assert list(values) == names
    assert list(result["guards"]) == names


@pytest.mark.parametrize("criterion", ["msw", "sliced", "block_influence"])
def test_an_identity_block_scores_lowest(scored: tuple, criterion: str) -> None:
    values = scored[3]["scores"][criterion]
    assert min(values, key=values.get) == "layer3.1"
    assert values["layer3.1"] == pytest.approx(0, abs=1e-5)
    assert scored[3]["guards"]["layer3.1"]["displacement"] == pytest.approx(0, abs=1e-6)
    assert scored[3]["scores"]["leave_one_out"]["layer3.1"] == 0


def test_leave_one_out_is_the_accuracy_lost(scored: tuple) -> None:
    model, names, data, result = scored

    def accuracy(network: torch.nn.Module) -> float:
        loader = batches(data.validation, 100, mean=data.mean, std=data.std, device=CPU)
        return accuracy_pct(network, loader)

    expected = accuracy(model) - accuracy(bypass(model, [names[0]]))
    assert result["scores"]["leave_one_out"][names[0]] == pytest.approx(expected)


def test_random_scores_follow_the_seed() -> None:
    statistics = {name: BlockStatistics(0.0, 0.0, 0.0, 1.0) for name in "abc"}
    first, again, other = (CRITERIA["random"](Evidence(statistics, {}, s)) for s in (1, 1, 2))
    assert first == again != other
