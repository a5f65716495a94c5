"""The plan of a real network: what can be removed, its levels, and the searches on it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from models.replacement.fitting import KINDS, Replacements, cheapest
from models.surgery import bypass
from models.units import block_units
from models.zoo import create
from pipeline.benchmark.timing.graphs import graph_latencies_ms
from pipeline.collapse.channel_maps import as_maps
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.params import Benchmark, Plan, Score, WarmUp
from pipeline.data.dataset import Dataset, load, validation_sample
from pipeline.export.exporter import export_onnx
from pipeline.plan.level import ShallowNetwork
from pipeline.plan.records import PlanMetrics
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.plan.scoring.records import ScoredUnit, ScoreMetrics
from pipeline.plan.search.description import plan_metrics
from pipeline.plan.search.planning import Candidates, LatenciesMs, candidates, plan

CPU = torch.device("cpu")
SCORING = Score(samples=200, projections=20)


@pytest.fixture(scope="module")
def data(prepared: Path) -> Dataset:
    return load(prepared)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet18_cifar", 10, in_chans=1, width=8).eval()


def ordered(model: nn.Module, order: Sequence[str], criterion: str = "msw") -> Candidates:
    """Return these blocks as candidates, with scores by which they are removed in this order."""
    units = [u for u in block_units(model, torch.zeros(2, 1, 32, 32)) if u.name in order]
    scores = {unit.name: float(order.index(unit.name)) for unit in units}
    return Candidates(units, scores, criterion, SCORING, {})


def settings(**options: object) -> Plan:
    required = {"criterion": "auto", "max_accuracy_drop_pct": 100.0}
    return Plan.model_validate({**required, **options})


def never(_: Sequence[ShallowNetwork]) -> list[float]:
    raise AssertionError("this search times nothing")


def planned(
    model: nn.Module,
    who: Candidates,
    data: Dataset,
    params: Plan,
    latencies_ms: LatenciesMs = never,
) -> tuple[PlanMetrics, list[Replacements]]:
    found, dead = plan(model, who, data, params, latencies_ms=latencies_ms, device=CPU)
    metrics = plan_metrics("dense", who, params, found, dead, None)
    return metrics, [level.replacements for level in found.levels]


def validate(network: nn.Module, data: Dataset) -> float:
    return data.validation_accuracy_pct(network)


@pytest.mark.parametrize(("wanted", "criterion"), [("auto", "msw"), ("random", "random")])
def test_blocks_that_cannot_be_removed_from_the_graph_have_a_reason(
    wanted: str, criterion: str
) -> None:
    units = [ScoredUnit(name, (1,), (1,), True, "", name, name) for name in "abc"]
    scores = {"msw": {"a": 3.0, "b": 2.0, "c": 1.0}, "random": dict.fromkeys("abc", 0.0)}
    scored = ScoreMetrics("dense", 9, "paper", "block", "msw", units, scores, {})
    exported = {"a": "", "b": "is already the identity", "d": "changes shape"}
    found = candidates(scored, exported, settings(criterion=wanted), SCORING)
    assert [unit.name for unit in found.units] == ["a"]
    assert (found.criterion, found.scores) == (criterion, {"a": scores[criterion]["a"]})
    assert found.not_removable == {
        "c": "is not in the exported graph",
        "b": "is already the identity",
    }


def test_levels_are_measured_on_validation_as_the_bypassed_network_is(
    model: nn.Module, data: Dataset
) -> None:
    found = block_units(model, torch.zeros(2, 1, 32, 32))
    order = [block.name for block in found if block.removable][::-1]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made, replacements = planned(model, ordered(model, order), data, settings())
    assert replacements == [{}] * 6
    assert made.order == order
    assert [level.removed for level in made.levels] == [order[:n] for n in range(6)]
    assert made.chosen_level == 5  # any drop is allowed
    expected = validate(bypass(model, order[:3]), data)
    assert made.levels[3].val_accuracy_pct == pytest.approx(expected)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_cheapest_good_replacement_is_chosen_and_its_accuracy_is_the_levels(
    model: nn.Module, data: Dataset
) -> None:
    who = ordered(model, ["layer1.0", "layer2.1"])
    automatic = settings(replacement="auto", replacement_samples=100)
    made, replacements = planned(model, who, data, automatic)
    for level, own in zip(made.levels, replacements, strict=True):
        tried = level.val_accuracy_by_replacement_pct
        assert list(tried) == (list(KINDS) if level.removed else ["identity"])
        assert level.replacement == cheapest(tried, 0.1)
        assert set(own) == (set() if level.replacement == "identity" else set(level.removed))
        shallow = bypass(model, level.removed, own)
        assert level.val_accuracy_pct == tried[level.replacement]
        assert level.val_accuracy_pct == pytest.approx(validate(shallow, data))
    only = planned(model, who, data, settings(replacement="affine"))[0]
    assert [level.replacement for level in only.levels] == ["identity", "affine", "affine"]


@pytest.fixture
def half_dead(model: nn.Module) -> nn.Module:
    """The network with two dead branches, one of which adds nothing."""
    for name, shift in (("layer2.1", 0.5), ("layer4.1", 0.0)):
        norm = model.get_submodule(name).bn2
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, shift)
    return model


@pytest.mark.parametrize(("replacement", "kind"), [("identity", "constant"), ("linear", "linear")])
def test_dead_blocks_are_removed_first_and_replaced_by_their_constant_at_every_level(
    half_dead: nn.Module, data: Dataset, replacement: str, kind: str
) -> None:
    who = ordered(half_dead, ["layer1.1", "layer3.1", "layer4.1", "layer2.1"])
    params = settings(replacement=replacement, replacement_samples=64)
    made, replacements = planned(half_dead, who, data, params)
    assert [found.block for found in made.dead] == ["layer4.1", "layer2.1"]
    assert max(found.largest_deviation for found in made.dead) < 1e-6
    assert made.order == ["layer4.1", "layer2.1", "layer1.1", "layer3.1"]
    expected = ["identity", "identity", "constant", kind, kind]
    assert [level.replacement for level in made.levels] == expected
    accuracies = [level.val_accuracy_pct for level in made.levels]
    assert accuracies[:3] == [accuracies[0]] * 3
    for level, own in zip(made.levels, replacements, strict=True):
        dead, alive = set(level.removed[:2]) & {"layer2.1"}, set(level.removed[2:])
        assert set(own) == dead | (alive if kind == "linear" else set())
        assert all(
            torch.allclose(own[name].bias, torch.tensor(0.5), rtol=1e-5)
            and own[name].weight is None
            for name in dead
        )
        shallow = bypass(half_dead, level.removed, own)
        assert level.val_accuracy_pct == pytest.approx(validate(shallow, data))


def test_dead_blocks_are_like_others_where_they_are_not_looked_for(
    half_dead: nn.Module, data: Dataset
) -> None:
    who = ordered(half_dead, ["layer1.1", "layer2.1"])
    made, replacements = planned(half_dead, who, data, settings(dead_branches=False))
    assert made.dead == []
    assert made.order == ["layer1.1", "layer2.1"]
    assert replacements == [{}] * 3


@pytest.mark.parametrize("criterion", ["block_influence", "leave_one_out"])
def test_greedy_scores_the_network_that_is_already_shallow_with_its_replacements(
    model: nn.Module, data: Dataset, criterion: str
) -> None:
    order = ["layer1.1", "layer3.1", "layer1.0"]
    who = ordered(model, order, criterion)
    made, replacements = planned(model, who, data, settings(search="greedy", replacement="linear"))
    first, second, third = made.order
    assert first == order[0]  # the scores of the whole network are those that are given
    shallow = bypass(model, [first], replacements[1])
    left = [unit for unit in who.units if unit.name != first]
    expected = CRITERIA[criterion](gather(shallow, left, data, SCORING, CPU))
    assert made.scores[second] == pytest.approx(expected[second])
    assert expected[second] <= expected[third]
    if criterion == "leave_one_out":
        lost = validate(shallow, data) - validate(bypass(shallow, [second]), data)
        assert expected[second] == pytest.approx(lost)


def test_levels_of_a_latency_aware_plan_are_timed_as_graphs_and_keep_the_budget(
    model: nn.Module, data: Dataset, prepared: Path, tmp_path: Path
) -> None:
    names = ["layer1.0", "layer1.1", "layer2.1"]
    source = export_onnx(model, torch.zeros(1, 1, 32, 32), tmp_path / "model.onnx")
    timing = Benchmark(
        batch_sizes=[1], warmup=WarmUp(window=3, max_calls=9), rounds=5, repeats=3, threads=1
    )

    def latencies_ms(networks: Sequence[ShallowNetwork]) -> list[float]:
        graphs = [tmp_path / f"{n}.onnx" for n in range(len(networks))]
        for graph, network in zip(graphs, networks, strict=True):
            collapse_onnx(source, graph, network.removed, as_maps(network.replacements))
        return graph_latencies_ms(graphs, validation_sample(prepared, 16), 16, timing)

    bare_ms, whole_ms = latencies_ms([ShallowNetwork(names, {}), ShallowNetwork([], {})])
    assert bare_ms < whole_ms
    budget = 5 * whole_ms  # generous, for the machine may be busy
    params = settings(
        search="latency_aware",
        latency_budget_ms=budget,
        latency_batch=16,
        replacement="linear",
        replacement_samples=64,
    )
    made, replacements = planned(model, ordered(model, names), data, params, latencies_ms)
    assert sorted(made.order) == sorted(names)
    assert set(made.savings_ms) == set(names)
    assert min(level.latency_ms for level in made.levels) > 0
    chosen = made.levels[made.chosen_level]
    assert chosen.latency_ms <= made.latency_budget_ms == budget
    within = [level for level in made.levels if level.latency_ms <= budget]
    assert chosen.val_accuracy_pct == max(level.val_accuracy_pct for level in within)
    for level, own in zip(made.levels, replacements, strict=True):
        expected = validate(bypass(model, level.removed, own), data)
        assert level.val_accuracy_pct == pytest.approx(expected)
