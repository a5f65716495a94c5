"""Properties, closed forms and an independent reference (POT) for the distances."""

import math

import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.distances.projections import directions
from pipeline.distances.sliced import (
    max_sliced_wasserstein,
    projected_distances,
    sliced_wasserstein,
)

SIZES = st.integers(min_value=2, max_value=24)
SEEDS = st.integers(min_value=0, max_value=2**31)


def sample(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shared(seed: int, d: int, n: int = 40) -> Tensor:
    return directions(d, n, generator=torch.Generator().manual_seed(seed)).double()


@given(SEEDS, SIZES, SIZES, st.sampled_from([1, 2, 3]))
def test_equals_pot_on_shared_projections(seed: int, n: int, d: int, p: int) -> None:
    x, y, theta = sample(seed, n, d), 2 + sample(seed + 1, n, d), shared(seed, d)
    ours = max_sliced_wasserstein(x, y, p=p, projections=theta).item()
    reference = ot.sliced.max_sliced_wasserstein_distance(x, y, p=p, projections=theta).item()
    assert ours == pytest.approx(reference, rel=1e-5)
    mean = sliced_wasserstein(x, y, p=p, projections=theta).item()
    reference = ot.sliced.sliced_wasserstein_distance(x, y, p=p, projections=theta).item()
    assert mean == pytest.approx(reference, rel=1e-5)


@given(SEEDS, SIZES, SIZES, SIZES)
def test_equals_pot_for_unequal_counts(seed: int, n: int, m: int, d: int) -> None:
    x, y, theta = sample(seed, n, d), 2 + sample(seed + 1, m, d), shared(seed, d)
    ours = sliced_wasserstein(x, y, projections=theta).item()
    reference = ot.sliced.sliced_wasserstein_distance(x, y, p=2, projections=theta).item()
    assert ours == pytest.approx(reference, rel=1e-5)


@given(SEEDS, SIZES, SIZES)
def test_zero_for_any_permutation_of_the_rows(seed: int, n: int, d: int) -> None:
    x, theta = sample(seed, n, d), shared(seed, d)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert max_sliced_wasserstein(x, x[order], projections=theta).item() == pytest.approx(
        0, abs=1e-7
    )


@given(SEEDS, SIZES, SIZES)
def test_symmetry_and_translation_invariance(seed: int, n: int, d: int) -> None:
    x, y, theta = sample(seed, n, d), sample(seed + 1, n, d), shared(seed, d)
    value = max_sliced_wasserstein(x, y, projections=theta)
    torch.testing.assert_close(value, max_sliced_wasserstein(y, x, projections=theta))
    moved = max_sliced_wasserstein(x + 5, y + 5, projections=theta)
    torch.testing.assert_close(value, moved)


@given(SEEDS, SIZES, SIZES)
def test_triangle_inequality_with_shared_directions(seed: int, n: int, d: int) -> None:
    x, y, z = (sample(seed + i, n, d) for i in range(3))
    theta = shared(seed, d)

    def distance(a: Tensor, b: Tensor) -> float:
        return max_sliced_wasserstein(a, b, projections=theta).item()

    assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-9


@given(SEEDS, SIZES, SIZES)
def test_between_the_mean_and_the_paired_displacement(seed: int, n: int, d: int) -> None:
    x, y, theta = sample(seed, n, d), sample(seed + 1, n, d) * 2, shared(seed, d)
    mean = sliced_wasserstein(x, y, projections=theta).item()
    largest = max_sliced_wasserstein(x, y, projections=theta).item()
    assert mean <= largest + 1e-12
    assert largest <= (x - y).norm(dim=1).square().mean().sqrt().item() + 1e-9


@given(SEEDS, SIZES, SIZES)
def test_a_shift_is_measured_by_its_length_along_its_own_direction(
    seed: int, n: int, d: int
) -> None:
    x, delta = sample(seed, n, d), sample(seed + 1, 1, d)[0]
    theta = (delta / delta.norm())[:, None]
    value = max_sliced_wasserstein(x, x + delta, projections=theta)
    torch.testing.assert_close(value, delta.norm())


@given(SEEDS, SIZES, SIZES)
def test_gradient_is_rank_one_sums_to_zero_and_is_homogeneous(seed: int, n: int, d: int) -> None:
    x, y = sample(seed, n, d).requires_grad_(), (1 + 2 * sample(seed + 1, n, d)).requires_grad_()
    value = max_sliced_wasserstein(x, y, projections=shared(seed, d))
    grad_x, grad_y = torch.autograd.grad(value, [x, y])
    torch.testing.assert_close(grad_x.sum(0) + grad_y.sum(0), torch.zeros(d).double())
    torch.testing.assert_close((grad_x * x + grad_y * y).sum(), value)
    singular = torch.linalg.svdvals(grad_x)
    assert singular[1:].max().item() < 1e-9
    assert grad_x.norm().item() == pytest.approx(1 / math.sqrt(n))


def test_gradient_is_that_of_finite_differences() -> None:
    x, y, theta = sample(0, 6, 4).requires_grad_(), sample(1, 6, 4), shared(0, 4)
    assert torch.autograd.gradcheck(lambda a: max_sliced_wasserstein(a, y, projections=theta), [x])


@pytest.mark.parametrize("distance", [max_sliced_wasserstein, sliced_wasserstein])
def test_gradient_is_zero_and_finite_at_zero_distance(distance) -> None:
    x = sample(0, 8, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(x, x.detach().clone()), [x])
    assert torch.equal(gradient, torch.zeros_like(x))


def test_random_directions_see_a_shift_as_the_authors_estimate_does() -> None:
    """The largest of 50 random directions returns about 2.5‖δ‖/√d for a shift δ."""
    d = 4096
    x, delta = sample(0, 16, d).float(), sample(1, 1, d)[0].float()
    values = [
        max_sliced_wasserstein(x, x + delta, generator=torch.Generator().manual_seed(s)).item()
        for s in range(20)
    ]
    ratio = sum(values) / len(values) / (delta.norm().item() / math.sqrt(d))
    assert 2.2 < ratio < 2.8


def test_seeded_directions_are_repeatable_unit_columns() -> None:
    theta = directions(7, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(theta, directions(7, 5, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(theta.norm(dim=0), torch.ones(5))


def test_projected_distances_are_those_of_the_unprojected_samples() -> None:
    x, y, theta = sample(0, 9, 6), sample(1, 9, 6), shared(0, 6)
    largest, mean = projected_distances((x @ theta).t(), (y @ theta).t())
    torch.testing.assert_close(largest, max_sliced_wasserstein(x, y, projections=theta))
    torch.testing.assert_close(mean, sliced_wasserstein(x, y, projections=theta))


def test_half_precision_under_autocast_is_measured_in_full_precision() -> None:
    x, y = sample(0, 32, 64).bfloat16(), (sample(1, 32, 64) * 3).bfloat16()
    theta = shared(0, 64).float()
    expected = max_sliced_wasserstein(x.float(), y.float(), projections=theta)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(max_sliced_wasserstein(x, y, projections=theta), expected)


def test_features_of_any_shape_are_flattened() -> None:
    x, y, theta = sample(0, 5, 24), sample(1, 5, 24), shared(0, 24)
    torch.testing.assert_close(
        max_sliced_wasserstein(x.reshape(5, 2, 3, 4), y.reshape(5, 2, 3, 4), projections=theta),
        max_sliced_wasserstein(x, y, projections=theta),
    )


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), {}, "differ in dimension: 3 and 4"),
        (torch.zeros(0, 3), torch.zeros(2, 3), {}, "samples need rows"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"p": 0.5}, "at least 1, got 0.5"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"projections": torch.zeros(5, 1)}, "dimension 5"),
    ],
)
def test_bad_input_is_named(x: Tensor, y: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        max_sliced_wasserstein(x, y, **options)
