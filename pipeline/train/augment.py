"""Training images changed at random: geometry and colour before, Mixup and CutMix after scaling.

What is drawn comes from the generator that is passed in and from nothing else, on every device, so
that an epoch can be repeated; what an image gets does not depend on how many processes share its
batch. torchvision's transforms draw from torch's own generator: they run on seeds that ours gives,
and torch's is put back afterwards. Validation and test never come here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Generator, Tensor
from torch.nn import functional

from pipeline.core.params import Train
from pipeline.data.dataset import Augment, Draws, Images

Inputs = Float32[Tensor, "b c h w"]
SoftLabels = Float32[Tensor, "b classes"]
Mix = Callable[[Inputs, Int64[Tensor, " b"], Generator], tuple[Inputs, SoftLabels]]


def augmentation(params: Train) -> Augment | None:
    """Return a function of a batch of images; None where `params` ask for no change.

    In this order: rotation by up to `rotation_degrees` either way; a random part of the image, of
    at least the share `random_resized_crop` of its area, enlarged to its size; brightness,
    contrast, saturation and hue changed by up to `color_jitter`; mirrored left to right, and top to
    bottom, with probability ½; padded by `crop_padding` pixels on every side and cut back to its
    size at a random place. Every image has its own draws; what comes in from outside is black.
    """
    steps = [*_per_image(params), *_on_batch(params)]
    if not steps:
        return None

    def augment(images: Images, draws: Draws) -> Images:
        for step in steps:
            images = step(images, draws)
        return images

    return augment


def _per_image(params: Train) -> list[Augment]:
    """Return torchvision's transforms: for a batch they draw once, so it is taken apart."""
    degrees, strength = params.rotation_degrees, params.color_jitter
    share = params.random_resized_crop
    if not degrees and not share and not strength:
        return []
    from torchvision.transforms import InterpolationMode, v2

    def augment(images: Images, draws: Draws) -> Images:
        steps: list[Callable[[Tensor], Tensor]] = []
        if degrees:
            steps.append(v2.RandomRotation(degrees, InterpolationMode.BILINEAR))
        if share:
            steps.append(v2.RandomResizedCrop(list(images.shape[2:]), scale=(share, 1.0)))
        if strength:
            steps.append(v2.ColorJitter(*[strength] * 4))
        change, changed = v2.Compose(steps), []
        seeds = draws.integers(2**63 - 1)[0].tolist()
        for image, seed in zip(images, seeds, strict=True):
            with torchs_draws_from(seed):
                changed.append(change(image))
        return torch.stack(changed)

    return [augment]


def _on_batch(params: Train) -> list[Augment]:
    axes = [-1] * params.flip + [-2] * params.vertical_flip
    crop = [partial(_random_crop, params.crop_padding)] * bool(params.crop_padding)
    return [*(partial(_random_flip, axis) for axis in axes), *crop]


def _random_flip(axis: int, images: Images, draws: Draws) -> Images:
    mirrored = draws.uniform() < 0.5
    return torch.where(mirrored.to(images.device).reshape(-1, 1, 1, 1), images.flip(axis), images)


def _random_crop(padding: int, images: Images, draws: Draws) -> Images:
    n, _, height, width = images.shape
    offsets = draws.integers(2 * padding + 1, rows=2).to(images.device)
    padded = functional.pad(images, [padding] * 4)
    # (n, c, h + 2p, w + 2p) -> every window (n, 2p + 1, 2p + 1, c, h, w) as a view -> (n, c, h, w)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    top, left = offsets
    return windows[torch.arange(n, device=images.device), top, left]


def mixing(params: Train, classes: int) -> Mix | None:
    """Return Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), or None for neither.

    Each batch, or a process's part of it, is mixed with itself shifted by one image, in a
    proportion drawn from Beta(α, α); the labels become shares of the classes. Where both α are
    above 0, a coin decides for each batch, as in torchvision's reference training.
    """
    if not params.mixup_alpha and not params.cutmix_alpha:
        return None
    from torchvision.transforms import v2

    alphas = {v2.MixUp: params.mixup_alpha, v2.CutMix: params.cutmix_alpha}
    ways = [way(alpha=alpha, num_classes=classes) for way, alpha in alphas.items() if alpha]

    def mix(
        images: Inputs, labels: Int64[Tensor, " b"], generator: Generator
    ) -> tuple[Inputs, SoftLabels]:
        way = ways[int(torch.randint(len(ways), (), generator=generator))]
        with torchs_draws_from(int(torch.randint(2**63 - 1, (), generator=generator))):
            mixed: tuple[Inputs, SoftLabels] = way(images, labels)
        return mixed

    return mix


@contextmanager
def torchs_draws_from(seed: int) -> Iterator[None]:
    """Let torch's own CPU generator start from `seed`, and put it back after.

    No other device's is touched: the transforms draw on the CPU whatever they work on.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
