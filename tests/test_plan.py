"""The plan: its order, its levels and its choice."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.blocks import find_blocks
from models.surgery import bypass
from models.zoo import create
from pipeline.data import batches, load
from pipeline.evaluate import accuracy_pct
from pipeline.params import Plan
from pipeline.plan import deepest_level, in_graph, plan, removal_order
from pipeline.replacement import KINDS, cheapest


def test_the_least_missed_goes_first_and_ties_keep_the_networks_order() -> None:
    assert removal_order({"a": 0.5, "b": 0.1, "c": 0.5, "d": -1.0}) == ["d", "b", "a", "c"]


def test_blocks_that_cannot_be_cut_out_of_the_graph_stay_and_say_why() -> None:
    exported = {"a": "", "b": "is already the identity", "d": "changes shape"}
    order, left_out = in_graph(["c", "b", "a"], exported)
    assert order == ["a"]
    assert left_out == {"c": "is not in the exported graph", "b": "is already the identity"}


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 20))
def test_the_deepest_level_within_the_drop(accuracies: list[float], drop: float) -> None:
    chosen = deepest_level(accuracies, drop)
    floor = accuracies[0] - drop - 1e-9
    assert accuracies[chosen] >= floor
    assert all(accuracy < floor for accuracy in accuracies[chosen + 1 :])


def test_a_drop_of_exactly_the_limit_is_allowed_whatever_the_rounding() -> None:
    assert deepest_level([64.15, 63.65], 0.5) == 1
    assert deepest_level([64.15, 63.64], 0.5) == 0


def test_a_level_below_the_floor_does_not_hide_a_deeper_one_above_it() -> None:
    assert deepest_level([90, 80, 89.5], 1) == 2


def test_levels_are_measured_on_validation_as_the_bypassed_network_is(prepared: Path) -> None:
    data = load(prepared)
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    found = find_blocks(model, torch.zeros(2, 1, 32, 32))
    order = [block.name for block in found if block.removable][::-1]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = Plan(criterion="msw", max_accuracy_drop_pct=100.0)
    planned, stand_ins = plan(model, order, data, settings, torch.device("cpu"))
    assert stand_ins == [{}] * 6
    assert [level["removed"] for level in planned["levels"]] == [order[:n] for n in range(6)]
    assert planned["chosen_level"] == 5  # any drop is allowed
    loader = batches(data.validation, 50, mean=data.mean, std=data.std, device="cpu")
    expected = accuracy_pct(bypass(model, order[:3]), loader)
    assert planned["levels"][3]["val_accuracy_pct"] == pytest.approx(expected)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_cheapest_good_replacement_is_chosen_and_its_accuracy_is_the_levels(
    prepared: Path,
) -> None:
    data = load(prepared)
    torch.manual_seed(0)
    model = create("resnet18_cifar", 10, in_chans=1, width=8)
    order = ["layer1.0", "layer2.1"]
    options = {"criterion": "msw", "max_accuracy_drop_pct": 100.0}
    settings = Plan(**options, replacement="auto", replacement_samples=100)
    planned, stand_ins = plan(model, order, data, settings, torch.device("cpu"))
    loader = list(batches(data.validation, 50, mean=data.mean, std=data.std, device="cpu"))
    for level, own in zip(planned["levels"], stand_ins, strict=True):
        tried = level["val_accuracy_by_replacement_pct"]
        assert list(tried) == (list(KINDS) if level["removed"] else ["identity"])
        assert level["replacement"] == cheapest(tried, 0.1)
        assert set(own) == (set() if level["replacement"] == "identity" else set(level["removed"]))
        shallow = bypass(model, level["removed"], own)
        assert level["val_accuracy_pct"] == tried[level["replacement"]]
        assert level["val_accuracy_pct"] == pytest.approx(accuracy_pct(shallow, loader))
    only = plan(model, order, data, Plan(**options, replacement="affine"), torch.device("cpu"))[0]
    assert [level["replacement"] for level in only["levels"]] == ["identity", "affine", "affine"]
