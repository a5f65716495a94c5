"""The estimators of the penalty against plain torch, closed forms and each other."""

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from pipeline.distances.ascent import ascend
from pipeline.distances.estimators import ESTIMATORS, random_gain
from pipeline.distances.memory_order import memory_order
from pipeline.distances.projections import directions
from pipeline.distances.sliced import max_sliced_wasserstein

SEEDS = st.integers(min_value=0, max_value=2**31)
SIZES = st.integers(min_value=2, max_value=16)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def sample(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def chain(seed: int, n: int = 12) -> list[Tensor]:
    """Four feature maps in a row: the second and third belong to two pairs."""
    maps = [sample(seed + i, n, 3, 4, 4) * (1 + i) + i for i in range(4)]
    return [m.to(memory_format=torch.channels_last).requires_grad_() for m in maps]


def naive(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """W_2 along one direction by plain autograd."""
    u, v = (t.flatten(1) @ theta for t in (x, y))
    return (u.sort().values - v.sort().values).square().mean().sqrt()


def pairs_of(maps: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    return {f"b{i}": (maps[i], maps[i + 1]) for i in range(len(maps) - 1)}


@settings(max_examples=25)
@given(SEEDS)
def test_random_equals_pot_on_its_own_directions_gradients_included(seed: int) -> None:
    maps = chain(seed)
    values = ESTIMATORS["random"](20)(pairs_of(maps), seeded(seed))
    gradients = torch.autograd.grad(values.sum(), maps)
    rows = directions(48, 20, generator=seeded(seed)).t()
    # The estimator's coordinates follow the memory, channels last.
    theta = rows.reshape(20, 4, 4, 3).permute(0, 3, 1, 2).reshape(20, 48).t()
    expected = [
        ot.sliced.max_sliced_wasserstein_distance(x.flatten(1), y.flatten(1), projections=theta)
        for x, y in pairs_of(maps).values()
    ]
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-5, atol=1e-6)
    for ours, reference in zip(
        gradients, torch.autograd.grad(torch.stack(expected).sum(), maps), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)
        assert ours.stride() == maps[0].stride()


@settings(max_examples=25)
@given(SEEDS, SIZES)
def test_the_gradient_of_power_is_that_of_its_direction(seed: int, n: int) -> None:
    maps = chain(seed, n)
    power = ESTIMATORS["power"](50)
    for _ in range(3):
        before = {name: theta.flatten() for name, theta in power.state_dict().items()}
        values = power(pairs_of(maps), seeded(seed))
        gradients = torch.autograd.grad(values.sum(), maps)
    scale = random_gain(50) / math.sqrt(48)
    expected = [scale * naive(x, y, before[name]) for name, (x, y) in pairs_of(maps).items()]
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-4, atol=1e-6)
    for ours, reference in zip(
        gradients, torch.autograd.grad(torch.stack(expected).sum(), maps), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-6)


@settings(max_examples=25)
@given(SEEDS, SIZES, SIZES)
def test_no_direction_beats_the_ascent_and_it_stays_below_the_paired_distance(
    seed: int, n: int, d: int
) -> None:
    x, y = sample(seed, n, d), 2 * sample(seed + 1, n, d) + 1
    theta = ascend(x, y, memory_order(x), starts=16, generator=seeded(seed))
    torch.testing.assert_close(theta.norm(), torch.tensor(1.0))
    best = naive(x, y, theta[0]).item()
    tried = max_sliced_wasserstein(x, y, n_projections=200, generator=seeded(seed)).item()
    bound = torch.linalg.matrix_norm(x - y, 2).item() / math.sqrt(n)  # √λ_max(E δδᵀ)
    assert tried <= best * (1 + 1e-2)
    assert (x.mean(0) - y.mean(0)).norm().item() <= best * (1 + 1e-4)
    assert best <= bound * (1 + 1e-4)


@pytest.mark.parametrize("name", ["ascent", "power"])
def test_a_shift_is_measured_whole_and_returned_in_the_unit_of_random(name: str) -> None:
    x, delta = sample(0, 32, 2048), sample(1, 2048)
    estimator = ESTIMATORS[name](50)
    for _ in range(20):
        value = estimator({"b": (x, x + delta)}, seeded())[0].item()
    expected = random_gain(50) * delta.norm().item() / math.sqrt(2048)
    assert value == pytest.approx(expected, rel=1e-3)
    draws = [
        ESTIMATORS["random"](50)({"b": (x, x + delta)}, seeded(s))[0].item() for s in range(40)
    ]
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.05)


def largest(x: Tensor, y: Tensor) -> float:
    """Return W_2 along the best direction of an ascent."""
    theta = ascend(x, y, memory_order(x), starts=16, generator=seeded())
    return naive(x, y, theta[0]).item()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_gaussians_reach_the_maximum_of_their_closed_form(scale: float) -> None:
    """Maximise (θᵀΔm)² + (√θᵀΣ₁θ − √θᵀΣ₂θ)²; with Σ₂ = a²Σ₁ and equal means |1 − a|√λ_max."""
    root1 = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.3, 0.5]])
    white, delta = sample(0, 30_000, 3), torch.tensor([0.3, -0.2, 0.1])
    x, y = sample(1, 30_000, 3) @ root1.t(), scale * white @ root1.t()
    spread = torch.linalg.matrix_norm(root1, 2).item()
    assert largest(x, y) == pytest.approx(abs(1 - scale) * spread, rel=0.03, abs=0.05)
    thetas = torch.nn.functional.normalize(sample(2, 200_000, 3), dim=1)
    deviation = (thetas @ root1).norm(dim=1)
    closed = (thetas @ delta).square() + (deviation * (1 - scale)).square()
    expected = closed.max().sqrt().item()
    assert largest(x, y + delta) == pytest.approx(expected, rel=0.03, abs=0.05)


def test_a_linear_block_on_white_noise_is_measured_by_its_singular_values() -> None:
    """R = max |σ_i(W) − 1|, zero for a rotation; so ‖W‖₂ ≤ 1 + R (section 4.3 of the paper)."""
    x = sample(0, 40_000, 3)
    q, _ = torch.linalg.qr(sample(1, 3, 3))
    assert largest(x, x @ q.t()) < 0.03
    w = q @ torch.diag(torch.tensor([2.5, 1.0, 0.2]))
    distance = largest(x, x @ w.t())
    assert distance == pytest.approx(1.5, rel=0.02)
    assert torch.linalg.matrix_norm(w, 2).item() <= (1 + distance) * 1.02


@settings(max_examples=25)
@given(SEEDS, SIZES, SIZES)
def test_the_distances_along_a_chain_of_blocks_bound_that_of_its_ends(
    seed: int, n: int, d: int
) -> None:
    """Σ_k MSW(z_{k−1}, z_k) ≥ MSW(z_0, z_K); the ascent may miss a little of a maximum."""
    z = [sample(seed + i, n, d) * (1 + i) for i in range(4)]
    steps = sum(largest(z[i], z[i + 1]) for i in range(3))
    assert largest(z[0], z[3]) <= steps * (1 + 1e-2)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_equal_samples_give_zero_and_no_gradient(name: str) -> None:
    x = sample(0, 8, 3, 4, 4).requires_grad_()
    y = x.detach().clone().requires_grad_()
    values = ESTIMATORS[name](10)({"b": (x, y)}, seeded())
    assert values.item() == 0
    for gradient in torch.autograd.grad(values.sum(), [x, y]):
        assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_half_precision_is_measured_like_full(name: str) -> None:
    x, y = sample(0, 32, 64, 4, 4).bfloat16(), (3 * sample(1, 32, 64, 4, 4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = ESTIMATORS[name](50)({"b": (x.requires_grad_(), y)}, seeded())
    (gradient,) = torch.autograd.grad(half.sum(), [x])
    full = ESTIMATORS[name](50)({"b": (x.detach().float(), y.float())}, seeded())
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


def test_windows_keep_the_distribution_of_independent_directions() -> None:
    """Smooth, far from white features, whose windows without signs would be alike."""
    d = 2048
    x = torch.linspace(1, 2, d) + 0.1 * sample(0, 16, d)
    y = x + torch.linspace(0, 1, d).square()

    def estimates(thetas: list[Tensor]) -> Tensor:
        return torch.tensor([max_sliced_wasserstein(x, y, projections=t).item() for t in thetas])

    independent = estimates(
        [torch.nn.functional.normalize(sample(s, d, 50), dim=0) for s in range(1000, 1600)]
    )
    windows = estimates([directions(d, 50, generator=seeded(s)) for s in range(600)])
    assert windows.mean().item() == pytest.approx(independent.mean().item(), rel=0.04)
    assert windows.std().item() == pytest.approx(independent.std().item(), rel=0.25)


def test_one_direction_of_the_windows_is_uniform() -> None:
    d = 1024
    thetas = torch.stack([directions(d, 3, generator=seeded(s))[:, 1] for s in range(400)])
    torch.testing.assert_close(thetas.norm(dim=1), torch.ones(400))
    along = thetas @ torch.nn.functional.normalize(torch.linspace(1, 2, d), dim=0) * math.sqrt(d)
    assert abs(along.mean().item()) < 0.2
    assert along.std().item() == pytest.approx(1, rel=0.1)


def test_random_gain_is_the_expected_largest_normal() -> None:
    assert random_gain(1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-6)
    largest = sample(0, 20_000, 50).abs().max(dim=1).values.mean().item()
    assert random_gain(50) == pytest.approx(largest, rel=0.01)
