"""Networks by name: any timm architecture, and the two CIFAR variants of the LaCoOT authors.

A trained network is a folder of two files: `model.json` (how to create it) and
`weights.safetensors` (loaded strictly).
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ArtifactError, ShoalError, UnknownModelError, WeightsError, near_matches
from models.replacement.modules import blank_maps
from models.resnet_cifar import ResNetCifar
from models.surgery import remove_blocks
from models.weights.loading import Weights, load_into, read_weights
from models.weights.published import published_weights
from models.weights.saving import load_tensors, save_tensors

SPEC = "model.json"


@dataclass(frozen=True)
class ModelSpec:
    """How to create a network again, and what it takes as input."""

    name: str
    num_classes: int
    in_chans: int
    image_size: int
    mean: list[float]  # per channel, of pixels scaled to 0..1
    std: list[float]
    classes: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    initial_weights: str = "random"  # what its training started from
    removed: list[str] = field(default_factory=list)  # blocks, in training
    maps: dict[str, int] = field(default_factory=dict)  # their replacements: the axis of each map

    def example(self, batch: int = 2) -> Tensor:
        """Return a batch of zeros of the input's shape, (batch, in_chans, size, size)."""
        return torch.zeros(batch, self.in_chans, self.image_size, self.image_size)


def resnet18_cifar(num_classes: int, in_chans: int, *, width: int = 64) -> nn.Module:
    """ResNet-18 with a 3×3 stride-1 stem and a 3×3/2 max-pool, as the LaCoOT authors train it."""
    return ResNetCifar((2, 2, 2, 2), num_classes, in_chans, width)


def mobilenetv2_cifar(num_classes: int, in_chans: int) -> nn.Module:
    """MobileNetV2 for 32×32 images: stride 1 in the stem and in the second stage."""
    import timm

    model: Any = timm.create_model("mobilenetv2_100", num_classes=num_classes, in_chans=in_chans)
    model.conv_stem.stride = model.blocks[1][0].conv_dw.stride = (1, 1)
    network: nn.Module = model
    return network


# What architectures raise for options that they do not take.
CONSTRUCTION_ERRORS = (TypeError, ValueError, LookupError, AssertionError, RuntimeError)

CIFAR_VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnet18_cifar": resnet18_cifar,
    "mobilenetv2_cifar": mobilenetv2_cifar,
}


def create(
    name: str,
    num_classes: int,
    *,
    in_chans: int = 3,
    pretrained: bool = False,
    weights: Weights | None = None,
    **kw: Any,
) -> nn.Module:
    """Create a network that maps images (n, in_chans, h, w) to logits (n, num_classes).

    Args:
        name: any timm architecture, or one of `CIFAR_VARIANTS`.
        num_classes: number of logits.
        in_chans: image channels.
        pretrained: start from the architecture's published weights, `initial_weights(name)`.
        weights: start from these, whatever `pretrained` is. The classifier stays a new one where
            their number of classes is another; a line is printed that says so.
        kw: the architecture's own options, e.g. ``width=16`` or ``img_size=64``.

    Raises:
        UnknownModelError: there is no such name; the message has near matches.
        WeightsError: the weights cannot be had, or are another network's.
        ShoalError: the architecture does not take an option.
    """
    constructor = CIFAR_VARIANTS.get(name) or _timm_constructor(name)
    if weights is None and pretrained:
        weights = initial_weights(name)
    try:
        model = constructor(num_classes=num_classes, in_chans=in_chans, **kw)
    except CONSTRUCTION_ERRORS as e:
        what = f"model {name!r} cannot be created with the options {kw}"
        raise ShoalError(f"{what}: {type(e).__name__}: {e}") from e
    if weights is not None:
        changes = load_into(model, weights, in_chans)
        print("; ".join([f"{name}: starts from {weights.origin}", *changes]), flush=True)
    return model


def initial_weights(name: str, file: str | None = None) -> Weights:
    """Return the weights that a network starts from: those of a file, or the published ones.

    Args:
        name: as for `create`.
        file: a local safetensors file or torch state dict; none for the published weights, from
            an installed weights package (the extra `weights`) or else timm's hub.

    Raises:
        WeightsError: they cannot be had, or the file is not usable.
    """
    if file is not None:
        return read_weights(Path(file).expanduser())
    if name in CIFAR_VARIANTS:
        raise WeightsError(f"model {name!r} has no published weights; set pretrained: false")
    _timm_constructor(name)  # an unknown name is an error of its own
    return published_weights(name)


def _timm_constructor(name: str) -> Callable[..., nn.Module]:
    import timm

    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        known = [*CIFAR_VARIANTS, *timm.list_models()]
        raise UnknownModelError(
            f"no model {name!r}{near_matches(name, known)}; "
            "any name of timm.list_models() will do, or " + ", ".join(CIFAR_VARIANTS)
        )
    return partial(timm.create_model, name)


def normalisation(model: nn.Module, channels: int) -> tuple[list[float], list[float]] | None:
    """Return the (mean, std) per channel that the architecture's published weights expect.

    None where it has no published weights. For another number of channels than the published one,
    each is the mean over the published channels: as for colour images whose channels are equal.
    """
    published: Any = model.pretrained_cfg
    if "mean" not in published:
        return None
    return for_channels(published["mean"], published["std"], channels)


def for_channels(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[list[float], list[float]]:
    """Return (mean, std) for a number of channels: where it is another, their means."""
    if channels == len(mean):
        return list(mean), list(std)
    return [statistics.fmean(mean)] * channels, [statistics.fmean(std)] * channels


def save(folder: Path, spec: ModelSpec, model: nn.Module) -> None:
    """Write `model.json` and `weights.safetensors` into an existing folder."""
    save_weights(model, folder / "weights.safetensors")
    save_spec(folder, spec)


def save_spec(folder: Path, spec: ModelSpec) -> None:
    """Write `model.json` into an existing folder."""
    text = json.dumps(asdict(spec), indent=2) + "\n"
    (folder / SPEC).write_text(text, encoding="utf-8")


def spec_beside(weights: Path) -> ModelSpec | None:
    """Return the `model.json` beside a file of weights, or beside what it is a link to.

    Raises:
        WeightsError: it is damaged, or not one that `save` wrote.
    """
    for path in (weights.with_name(SPEC), weights.resolve().with_name(SPEC)):
        if path.is_file():
            try:
                return ModelSpec(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as e:
                raise WeightsError(
                    f"{path} is to say how images are normalised for {weights.name}, and is none "
                    f"that `train` wrote ({e}); take it away, or set model.normalisation"
                ) from e
    return None


def load(folder: Path) -> tuple[nn.Module, ModelSpec]:
    """Load what `save` wrote, in evaluation mode on the CPU.

    Raises:
        ArtifactError: a file is missing or damaged, or the weights are not this network's.
    """
    try:
        spec = ModelSpec(**json.loads((folder / SPEC).read_text(encoding="utf-8")))
        state, _ = load_tensors(folder / "weights.safetensors", "train it again")
        model = create(spec.name, spec.num_classes, in_chans=spec.in_chans, **spec.options)
        remove_blocks(model, spec.removed, blank_maps(spec.maps, state))
        model.load_state_dict(state, strict=True)
    except FileNotFoundError as e:
        raise ArtifactError(f"{e.filename or folder} is missing; `dvc repro` makes it") from e
    except (json.JSONDecodeError, TypeError, KeyError, RuntimeError) as e:
        raise ArtifactError(f"{folder} holds no usable network ({e}); train it again") from e
    return model.eval(), spec


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's parameters and buffers as safetensors."""
    state = model.state_dict()
    state = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    save_tensors(state, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote of the same network, strictly and in place.

    Raises:
        ArtifactError: the file is missing or damaged, or is of another network.
    """
    state, _ = load_tensors(path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as e:
        why = " ".join(str(e).split())
        fix = "delete it and run `dvc repro`"
        raise ArtifactError(f"{path} holds no weights of this network ({why}); {fix}") from e
