"""The criteria: what each ranks by, on a network whose blocks are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore

from models.surgery import bypass
from models.units import block_units
from models.zoo import create
from pipeline.activations import BlockStatistics, measure_blocks
from pipeline.criteria import CRITERIA, Evidence, OnDemand, gather
from pipeline.data import Dataset, batches, load, subset
from pipeline.evaluate import accuracy_pct
from pipeline.params import Score
from pipeline.score import score
from pipeline.search import removal_order

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scored(prepared: Path) -> tuple[torch.nn.Module, list[str], Dataset, dict]:
    data = load(prepared)
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8).eval()
    with torch.no_grad():  # a block after a ReLU whose branch adds nothing is the identity
        model.get_submodule("layer3.1.bn2").weight.zero_()
        model.get_submodule("layer3.1.bn2").bias.zero_()
    found = block_units(model, torch.zeros(2, 1, 32, 32))
    units = [unit for unit in found if unit.removable]
    params = Score(samples=200, projections=20)
    return model, [u.name for u in units], data, score(model, units, data, params, CPU)


def test_every_criterion_scores_every_block(scored: tuple) -> None:
    _, names, _, result = scored
    assert set(result["scores"]) == set(CRITERIA)
    for values in result["scores"].values():
        assert list(values) == names
    assert list(result["guards"]) == names


@pytest.mark.parametrize("criterion", ["msw", "sliced", "block_influence", "msw_validation"])
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


def test_recoverability_compares_units_also_where_all_of_them_are_to_go(scored: tuple) -> None:
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
    evidence = (Evidence(statistics, statistics, {}, {}, seed) for seed in (1, 1, 2))
    first, again, other = (CRITERIA["random"](e) for e in evidence)
    assert first == again != other


def test_the_deepest_goes_first() -> None:
    """The order of the network decides, not that of the names."""
    values = CRITERIA["deepest_first"](at_distances({"b": 1.0, "a": 2.0, "c": 0.0}))
    assert removal_order(values) == ["c", "a", "b"]


def test_the_distance_on_validation_images_looks_at_no_other(scored: tuple) -> None:
    model, names, data, result = scored
    units = [u for u in block_units(model, torch.zeros(2, 1, 32, 32)) if u.name == names[1]]
    sample = subset(data.validation, 200, seed=0)
    loader = batches(sample, 64, mean=data.mean, std=data.std, device=CPU)
    images = (x for x, _ in loader)
    direct = measure_blocks(model, units, images, n_projections=20, seed=0)[names[1]].msw
    assert result["scores"]["msw_validation"][names[1]] == pytest.approx(direct, rel=1e-4)
    assert result["scores"]["msw"][names[1]] != pytest.approx(direct, rel=1e-4)


def at_distances(distances: dict[str, float]) -> Evidence:
    """Evidence of these distances on validation images and none on training images."""
    validation = {name: BlockStatistics(d, 0.0, 0.0, 1.0) for name, d in distances.items()}
    training = {name: BlockStatistics(0.0, 0.0, 0.0, 1.0) for name in distances}
    return Evidence(training, validation, {}, {}, 0)


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
    evidence = at_distances({"near": 0.01, "b": 0.9, "c": 1.0, "d": 1.1, "far": 1.2})
    assert removal_order(CRITERIA["msw_validation"](evidence))[0] == "near"
    assert removal_order(CRITERIA["zscore_percentile"](evidence))[-1] == "near"


def test_a_network_without_removable_units_has_no_scores() -> None:
    evidence = Evidence({}, {}, {}, {}, 0)
    assert all(criterion(evidence) == {} for criterion in CRITERIA.values())


def test_evidence_is_measured_once_and_only_where_a_criterion_looks_at_it() -> None:
    asked: list[str] = []

    def measured(what: str, value: object) -> OnDemand:
        def measure() -> dict[str, object]:
            asked.append(what)
            return dict.fromkeys("ab", value)

        return OnDemand(["a", "b"], measure)

    known = BlockStatistics(0.5, 0.0, 0.0, 1.0)
    evidence = Evidence(
        measured("training", known),
        measured("validation", known),
        measured("drops", 2.0),
        measured("recovered", 3.0),
        seed=0,
    )
    assert CRITERIA["deepest_first"](evidence) == {"a": 0, "b": -1}
    assert list(CRITERIA["random"](evidence)) == ["a", "b"]
    assert asked == []
    assert CRITERIA["leave_one_out"](evidence) == {"a": 2, "b": 2}
    assert asked == ["drops"]
    assert CRITERIA["msw"](evidence) == {"a": 0.5, "b": 0.5}
    assert list(CRITERIA["block_influence"](evidence)) == ["a", "b"]
    assert asked == ["drops", "training"]
    assert CRITERIA["recoverability"](evidence) == {"a": 3, "b": 3}
    assert asked == ["drops", "training", "recovered"]
