"""The criteria: what each ranks by, on a network whose blocks are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore
from torch import nn

from models.surgery import bypass
from models.unit_selection import Selection
from models.units import Unit, block_units
from models.zoo import create
from pipeline.core.params import Method, Score
from pipeline.data.dataset import Dataset, load
from pipeline.distances.features import BlockStatistics, measure_blocks
from pipeline.plan.scoring.criteria import CRITERIA, BlockMeasures, OnDemand, gather
from pipeline.plan.scoring.records import ScoreMetrics
from pipeline.plan.scoring.score import score
from pipeline.plan.search.orders import removal_order

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scored(prepared: Path) -> tuple[torch.nn.Module, list[str], Dataset, ScoreMetrics]:
    data = load(prepared)
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8).eval()
    with torch.no_grad():  # a block after a ReLU whose branch adds nothing is the identity
        model.get_submodule("layer3.1.bn2").weight.zero_()
        model.get_submodule("layer3.1.bn2").bias.zero_()
    found = block_units(model, torch.zeros(2, 1, 32, 32))
    selection = Selection("block", "msw", found)
    params = Score(samples=200, projections=20)
    result = score("dense", model, selection, data, params=params, method=Method(), device=CPU)
    return model, [u.name for u in selection.removable], data, result


def test_every_criterion_scores_every_block(scored: tuple) -> None:
    _, names, _, result = scored
    assert set(result.scores) == set(CRITERIA)
    for values in result.scores.values():
        assert list(values) == names
    assert list(result.guards) == names


@pytest.mark.parametrize("criterion", ["msw", "sliced", "block_influence", "msw_validation"])
def test_an_identity_block_scores_lowest(scored: tuple, criterion: str) -> None:
    values = scored[3].scores[criterion]
    assert min(values, key=values.get) == "layer3.1"
    assert values["layer3.1"] == pytest.approx(0, abs=1e-5)
    assert scored[3].guards["layer3.1"].displacement == pytest.approx(0, abs=1e-6)
    assert scored[3].scores["leave_one_out"]["layer3.1"] == 0


def test_leave_one_out_is_the_accuracy_lost(scored: tuple) -> None:
    model, names, data, result = scored

    def accuracy(network: torch.nn.Module) -> float:
        return data.validation_accuracy_pct(network)

    expected = accuracy(model) - accuracy(bypass(model, [names[0]]))
    assert result.scores["leave_one_out"][names[0]] == pytest.approx(expected)


def test_recoverability_compares_units_also_where_all_of_them_are_removable(
    scored: tuple,
) -> None:
    model, names, data, _ = scored
    units = [u for u in block_units(model, torch.zeros(2, 1, 32, 32)) if u.removable]
    few = Score(samples=2, projections=1, recovery_images=0)
    of_all, of_half = (
        CRITERIA["recoverability"](gather(model, units, data, few, CPU, together=together))
        for together in (len(names), None)
    )
    assert of_all == of_half
    assert max(of_all.values()) - min(of_all.values()) > 1e-3


def test_random_scores_follow_the_seed() -> None:
    statistics = {name: BlockStatistics(0.0, 0.0, 0.0, 1.0) for name in "abc"}
    measures = (BlockMeasures(statistics, statistics, {}, {}, seed) for seed in (1, 1, 2))
    first, again, other = (CRITERIA["random"](e) for e in measures)
    assert first == again != other


def test_the_deepest_is_removed_first() -> None:
    """The order of the network decides, not that of the names."""
    values = CRITERIA["deepest_first"](at_distances({"b": 1.0, "a": 2.0, "c": 0.0}))
    assert removal_order(values) == ["c", "a", "b"]


def test_the_distance_on_validation_images_reads_no_other(scored: tuple) -> None:
    model, names, data, result = scored
    units = [u for u in block_units(model, torch.zeros(2, 1, 32, 32)) if u.name == names[1]]
    images = (x for x, _ in data.batches(data.validation.sample(200), 64))
    direct = measure_blocks(model, units, images, n_projections=20, seed=0)[names[1]].msw
    assert result.scores["msw_validation"][names[1]] == pytest.approx(direct, rel=1e-4)
    assert result.scores["msw"][names[1]] != pytest.approx(direct, rel=1e-4)


def at_distances(distances: dict[str, float]) -> BlockMeasures:
    """BlockMeasures of these distances on validation images and none on training images."""
    validation = {name: BlockStatistics(d, 0.0, 0.0, 1.0) for name, d in distances.items()}
    training = {name: BlockStatistics(0.0, 0.0, 0.0, 1.0) for name in distances}
    return BlockMeasures(training, validation, {}, {}, 0)


@pytest.mark.parametrize(
    "distances",
    [[0.01, 0.9, 1.0, 1.1, 1.2], [0.3, 0.1, 0.3, 0.2], [2.0, 2.0, 5.0, 2.0], [7.0]],
)
def test_the_authors_score_agrees_with_scipy(distances: list[float]) -> None:
    values = CRITERIA["zscore_percentile"](
        at_distances({f"block {i}": distance for i, distance in enumerate(distances)})
    )
    z = np.abs(np.array(distances) - np.mean(distances)) / (np.std(distances) or 1)
    expected = [
        zi + percentileofscore(distances, d) / 100 for zi, d in zip(z, distances, strict=True)
    ]
    np.testing.assert_allclose(list(values.values()), expected)


def test_the_authors_score_keeps_what_is_closest_to_the_identity() -> None:
    """The defect for which the criterion is no default (METHOD: an outlier has a large |z|)."""
    measures = at_distances({"near": 0.01, "b": 0.9, "c": 1.0, "d": 1.1, "far": 1.2})
    assert removal_order(CRITERIA["msw_validation"](measures))[0] == "near"
    assert removal_order(CRITERIA["zscore_percentile"](measures))[-1] == "near"


def test_a_network_without_removable_units_has_no_scores() -> None:
    measures = BlockMeasures({}, {}, {}, {}, 0)
    assert all(criterion(measures) == {} for criterion in CRITERIA.values())


def test_measures_are_taken_once_and_only_where_a_criterion_reads_them() -> None:
    asked: list[str] = []

    def measured(what: str, value: object) -> OnDemand:
        def measure() -> dict[str, object]:
            asked.append(what)
            return dict.fromkeys("ab", value)

        return OnDemand(["a", "b"], measure)

    known = BlockStatistics(0.5, 0.0, 0.0, 1.0)
    measures = BlockMeasures(
        measured("training", known),
        measured("validation", known),
        measured("drops", 2.0),
        measured("recovered", 3.0),
        seed=0,
    )
    assert CRITERIA["deepest_first"](measures) == {"a": 0, "b": -1}
    assert list(CRITERIA["random"](measures)) == ["a", "b"]
    assert asked == []
    assert CRITERIA["leave_one_out"](measures) == {"a": 2, "b": 2}
    assert asked == ["drops"]
    assert CRITERIA["msw"](measures) == {"a": 0.5, "b": 0.5}
    assert list(CRITERIA["block_influence"](measures)) == ["a", "b"]
    assert asked == ["drops", "training"]
    assert CRITERIA["recoverability"](measures) == {"a": 3, "b": 3}
    assert asked == ["drops", "training", "recovered"]


class Branch(nn.Module):
    """x + b(x) on (n, 4), whose batch norm cannot learn from one image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


@pytest.mark.parametrize("images", [128, 129, 130, 193])
@pytest.mark.parametrize("recovery_images", [1, 65, 2048])
def test_a_single_image_to_learn_from_is_judged_by(
    prepared: Path, images: int, recovery_images: int
) -> None:
    data = load(prepared)
    few = dataclasses.replace(data, train=data.train[:images])
    model = nn.Sequential(
        nn.AvgPool2d(16), nn.Flatten(), Branch(), Branch(), nn.BatchNorm1d(4), nn.Linear(4, 10)
    )
    units = [Unit(name, (4,), (4,), True, "", entering=name, leaving=name) for name in ("2", "3")]
    params = Score(samples=20, projections=5, recovery_images=recovery_images)
    measures = gather(model, units, few, params, CPU)
    assert all(np.isfinite(value) for value in CRITERIA["recoverability"](measures).values())
