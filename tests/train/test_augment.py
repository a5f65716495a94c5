"""Augmentation: what may come out, what decides it, and that nothing else is touched."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from pipeline.core.distributed import Share
from pipeline.core.params import Train
from pipeline.data.dataset import Draws, load
from pipeline.train.augment import augmentation, mixing, torchs_draws_from

EVERYTHING = {
    "flip": True,
    "vertical_flip": True,
    "crop_padding": 2,
    "random_resized_crop": 0.3,
    "rotation_degrees": 30.0,
    "color_jitter": 0.4,
}
# Each alone, with values that change most images.
ALONE = [{key: value} for key, value in EVERYTHING.items()]


def settings(**changes: object) -> Train:
    values = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "penalty": {"lambda": 0.0}}
    return Train.model_validate(values | changes)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def draws(images: Tensor, seed: int = 0) -> Draws:
    return Draws(seeded(seed), len(images))


def random_images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(1, 256, shape, generator=seeded(seed), dtype=torch.uint8)


shapes = st.tuples(
    st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)
)


# --- each image's own change ----------------------------------------------------------------


@given(shapes, st.integers(0, 999), st.sampled_from([("flip", -1), ("vertical_flip", -2)]))
def test_a_flip_gives_the_image_or_its_mirror_image(shape, seed, way):
    key, axis = way
    images = random_images(shape, seed)
    flipped = augmentation(settings(**{key: True}))(images, draws(images, seed))
    for image, got in zip(images, flipped, strict=True):
        assert torch.equal(got, image) or torch.equal(got, image.flip(axis))


@given(shapes, st.integers(1, 3), st.integers(0, 999))
def test_a_crop_is_a_window_of_the_padded_image(shape, padding, seed):
    images = random_images(shape, seed)
    cropped = augmentation(settings(crop_padding=padding))(images, draws(images, seed))
    _, _, height, width = shape
    for image, got in zip(images.numpy(), cropped.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
        places = range(2 * padding + 1)
        windows = [padded[:, y : y + height, x : x + width] for y in places for x in places]
        assert any((got == window).all() for window in windows)


def test_half_are_flipped_and_all_places_are_cut():
    images = torch.arange(25, dtype=torch.uint8).reshape(1, 1, 5, 5).repeat(4000, 1, 1, 1)
    flipped = augmentation(settings(flip=True))(images, draws(images))
    mirrored = (flipped[:, 0, 0, 0] == 4).float().mean().item()
    assert mirrored == pytest.approx(0.5, abs=0.03)
    both = augmentation(settings(flip=True, vertical_flip=True))(images, draws(images))
    corners, counts = both[:, 0, 0, 0].unique(return_counts=True)
    assert corners.tolist() == [0, 4, 20, 24]
    assert (counts / 4000).tolist() == pytest.approx([1 / 4] * 4, abs=0.03)
    cropped = augmentation(settings(crop_padding=1))(images, draws(images))
    places, counts = cropped[:, 0, 2, 2].unique(return_counts=True)
    assert places.tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert (counts / 4000).tolist() == pytest.approx([1 / 9] * 9, abs=0.02)


def ramps(n: int, size: int) -> Tensor:
    """Images that show a pixel's place: channel 0 its column, channel 1 its row, from 20 up."""
    column = torch.linspace(20, 250, size).expand(size, size)
    return torch.stack([column, column.T, column]).to(torch.uint8).expand(n, 3, size, size)


def test_a_resized_crop_covers_at_least_the_share_and_differs_from_image_to_image():
    images = ramps(300, 40)
    cropped = augmentation(settings(random_resized_crop=0.25))(images, draws(images)).float()
    width = (cropped[:, 0].amax((1, 2)) - cropped[:, 0].amin((1, 2))) / 230
    height = (cropped[:, 1].amax((1, 2)) - cropped[:, 1].amin((1, 2))) / 230
    area = width * height
    assert 0.2 < area.min() < 0.35  # half a pixel is lost on every side
    assert 0.85 < area.max() <= 1
    assert len({(w, h) for w, h in zip(width.tolist(), height.tolist(), strict=True)}) > 50


def test_a_rotation_stays_within_its_angle_and_fills_with_black():
    images = ramps(200, 41)
    rotated = augmentation(settings(rotation_degrees=20.0))(images, draws(images)).float()
    right = rotated[:, 0, 20, 30] - rotated[:, 0, 20, 10]
    down = rotated[:, 1, 20, 30] - rotated[:, 1, 20, 10]
    angles = torch.rad2deg(torch.atan2(down, right))
    assert 17 < angles.max() < 21
    assert -21 < angles.min() < -17
    assert abs(angles.mean()) < 3
    assert (rotated[:, 0, 0, 0] == 0).float().mean() > 0.8


def test_jitter_changes_colour_by_its_strength_and_leaves_places_alone():
    flat = torch.full((300, 3, 4, 4), 100, dtype=torch.uint8)
    jittered = augmentation(settings(color_jitter=0.4))(flat, draws(flat))
    assert (jittered == jittered[:, :, :1, :1]).all()
    values = jittered[:, 0, 0, 0]
    assert 57 <= values.min() <= 66  # grey: brightness counts, from 0.6 to 1.4, and rounding
    assert 134 <= values.max() <= 142
    red = torch.tensor([200, 50, 50], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(50, 3, 4, 4)
    hues = augmentation(settings(color_jitter=0.4))(red, draws(red))[:, :, 0, 0].argmax(1)
    assert set(hues.tolist()) == {0, 1, 2}


def test_grey_images_stay_grey():
    images = random_images((5, 1, 16, 16))
    assert augmentation(settings(**EVERYTHING))(images, draws(images)).shape == (5, 1, 16, 16)


# --- what decides it ------------------------------------------------------------------------


def test_nothing_asked_for_costs_nothing():
    assert augmentation(settings()) is None
    assert mixing(settings(), 10) is None


@pytest.mark.parametrize("asked", [*ALONE, EVERYTHING], ids="+".join)
def test_the_generator_alone_decides(asked):
    images, augment = random_images((8, 3, 20, 20)), augmentation(settings(**asked))
    torch.manual_seed(1)
    one = augment(images, draws(images, 5))
    torch.manual_seed(2)
    again = augment(images, draws(images, 5))
    other = augment(images, draws(images, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    following = draws(images, 5)
    augment(images, following)
    assert not torch.equal(augment(images, following), one)  # the next batch


@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([*ALONE, EVERYTHING]))
def test_processes_that_share_a_batch_change_each_image_as_one_alone_would(n, processes, asked):
    images, augment = random_images((n, 3, 8, 8)), augmentation(settings(**asked))
    shares = [Share(rank, processes) for rank in range(processes)]
    parts = [
        augment(images[share.rows(n)], Draws(seeded(), n, share))
        for share in shares
        if len(images[share.rows(n)])
    ]
    assert torch.equal(torch.cat(parts), augment(images, draws(images)))


@pytest.mark.parametrize("asked", ALONE, ids="+".join)
def test_images_of_a_batch_are_changed_differently(asked):
    images = random_images((1, 3, 20, 20)).expand(30, 3, 20, 20)
    got = augmentation(settings(**asked))(images, draws(images))
    assert len({image.numpy().tobytes() for image in got}) > 1


def test_torchs_own_draws_go_on_undisturbed():
    """Dropout of a training step must not depend on how its images were augmented."""
    images, labels = random_images((4, 3, 8, 8)), torch.arange(4)
    augment, mix = augmentation(settings(**EVERYTHING)), mixing(settings(mixup_alpha=1.0), 4)
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    augment(images, draws(images))
    mix(images.float(), labels, seeded())
    assert torch.equal(torch.rand(5), expected)


def test_torchs_generator_is_put_back_after_an_error():
    before = torch.default_generator.get_state()
    with pytest.raises(KeyError), torchs_draws_from(0):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.default_generator.get_state(), before)


def test_the_images_that_come_in_are_not_written_to():
    images = random_images((6, 3, 12, 12))
    before = images.clone()
    augmentation(settings(**EVERYTHING))(images, draws(images))
    assert torch.equal(images, before)


def test_augmented_batches_repeat_with_the_generator(prepared):
    data = load(prepared)
    augment = augmentation(settings(**EVERYTHING))
    one, again = (
        torch.cat(
            [x for x, _ in data.batches(data.train, 128, augment=augment, generator=seeded(5))]
        )
        for _ in range(2)
    )
    assert torch.equal(one, again)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gets_the_same_batches(prepared):
    data = load(prepared)
    augment = augmentation(settings(flip=True, crop_padding=4))
    here, there = (
        list(data.batches(data.train, 128, augment=augment, device=device, generator=seeded(5)))
        for device in ("cpu", "cuda")
    )
    for (x, y), (x_cuda, y_cuda) in zip(here, there, strict=True):
        assert x_cuda.is_cuda
        torch.testing.assert_close(x_cuda.cpu(), x)
        assert torch.equal(y_cuda.cpu(), y)


# --- Mixup and CutMix -----------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0.1, 3), st.integers(0, 999))
def test_mixup_is_a_convex_combination_of_the_batch_and_its_shift(n, alpha, seed):
    images = torch.rand(n, 3, 5, 6, generator=seeded(seed))
    labels = torch.arange(n)
    mixed, shares = mixing(settings(mixup_alpha=alpha), 12)(images, labels, seeded(seed))
    assert shares.shape == (n, 12)
    torch.testing.assert_close(shares.sum(1), torch.ones(n))
    proportion = shares[0, 0]
    expected = proportion * images + (1 - proportion) * images.roll(1, 0)
    torch.testing.assert_close(mixed, expected)
    for row in range(n):
        torch.testing.assert_close(shares[row, row], proportion)


@given(st.integers(2, 12), st.integers(0, 999))
def test_cutmix_pastes_a_rectangle_and_shares_the_label_by_area(n, seed):
    images = torch.rand(n, 3, 8, 9, generator=seeded(seed))
    mixed, shares = mixing(settings(cutmix_alpha=1.0), 12)(images, torch.arange(n), seeded(seed))
    own = (mixed == images).all(1)
    pasted = (mixed == images.roll(1, 0)).all(1)
    assert (own | pasted).all()
    torch.testing.assert_close(shares[0, 0], own[0].float().mean())
    assert (own == own[:1]).all()
    rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
    assert pasted[0].sum() == rows * columns


def test_with_both_each_comes_half_of_the_time():
    mix = mixing(settings(mixup_alpha=1.0, cutmix_alpha=1.0), 4)
    images, generator = torch.rand(4, 1, 6, 6, generator=seeded()), seeded()
    kept = [bool((mix(images, torch.arange(4), generator)[0] == images).any()) for _ in range(400)]
    assert sum(kept) / 400 == pytest.approx(0.5, abs=0.1)


def test_the_generator_alone_decides_the_mix():
    mix = mixing(settings(mixup_alpha=0.8, cutmix_alpha=0.8), 4)
    images, labels = torch.rand(4, 3, 6, 6, generator=seeded()), torch.arange(4)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(results))
        results.append(mix(images, labels, seeded(seed)))
    (one, shares), (again, same), (other, _) = results
    assert torch.equal(one, again)
    assert torch.equal(shares, same)
    assert not torch.equal(one, other)
