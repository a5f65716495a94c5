"""Initial weights: read safely from a file, and loaded strictly into a network.

Own code: timm loads without `strict` where the classes differ, and a missing tensor stays random.

Two things may differ from the network that the weights were saved from: its number of classes (the
classifier is then left as it was created) and its image channels (the first convolution is summed
or repeated over channels, as timm does). Anything else is an error.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import WeightsError
from models.hashing import file_sha256
from models.weights.reading import State, read_state
from models.weights.saving import named_sha256

MESSAGE_LENGTH = 600  # of what torch reports of tensors that do not fit
# What timm's converters raise for tensors that they were not written for.
CONVERSION_ERRORS = (
    *(LookupError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError),
)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and for people where they are from."""

    state: State
    origin: str
    key: str = ""  # of the checkpoint that they were in


def read_weights(path: Path) -> Weights:
    """Read a safetensors file or a torch state dict; nothing in the file can run code.

    Of a training checkpoint the state dict in it is taken, and of that the averaged weights where
    there are any, as timm does.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    state, key = read_state(path)
    return Weights(state, f"{path} (sha256 {file_sha256(path)[:16]}…)", key)


def state_sha256(model: nn.Module) -> str:
    """Return the sha256 of a network's tensors: their names, types, shapes and values."""
    return named_sha256(model.state_dict().items())


def load_into(model: nn.Module, weights: Weights, in_chans: int) -> list[str]:
    """Load `weights` into `model` and return what had to be adapted, one phrase each.

    Args:
        model: a network whose `pretrained_cfg` names, as timm's do, its first convolution and its
            classifier.
        weights: of the same architecture; timm's converter for it is tried where names or shapes
            differ (other authors' names, position embeddings for another image size).
        in_chans: image channels of `model`.

    Raises:
        WeightsError: tensors are missing, unexpected, of another shape or kind, or not finite.
    """
    mismatch: RuntimeError | None = None
    taken = [f"its {weights.key!r} is taken"] * bool(weights.key)
    for state, stripped in _readings(model, weights):
        try:
            return [*taken, *stripped, *_load(model, state, in_chans, weights.origin)]
        except RuntimeError as e:
            mismatch = mismatch or e
    raise WeightsError(
        f"weights {weights.origin} do not fit the network: {shorten(str(mismatch), MESSAGE_LENGTH)}"
        "; set model.name and model.options to those of the network that was saved"
    ) from mismatch


def _readings(model: nn.Module, weights: Weights) -> Iterator[tuple[State, list[str]]]:
    """Yield what the state may be in the network's own names, and what was taken off them."""
    yield weights.state, []
    yield _converted(model, weights.state), []
    for prefix in _prefixes(model.state_dict(), weights):
        inner = {
            k.removeprefix(prefix): v for k, v in weights.state.items() if k.startswith(prefix)
        }
        left = len(weights.state) - len(inner)
        stripped = f"prefix {prefix!r} taken off" + f", {left} tensors without it left out" * bool(
            left
        )
        yield inner, [stripped]
        yield _converted(model, inner), [stripped]


def _prefixes(own: State, weights: Weights) -> Iterable[str]:
    """Return what stands before the names: where all of the network's are, or before all names."""
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    ends = [k.removesuffix(names[0]) for k in weights.state if f".{k}".endswith(f".{names[0]}")]
    whole = [prefix for prefix in ends if all(prefix + name in weights.state for name in names)]
    if len(whole) > 1:
        raise WeightsError(
            f"weights {weights.origin} hold this network more than once, under "
            f"{', '.join(map(repr, whole))}; save one of them alone"
        )
    parts = zip(*(key.split(".")[:-1] for key in weights.state), strict=False)
    shared = accumulate(f"{part[0]}." for part in takewhile(lambda p: len(set(p)) == 1, parts))
    return dict.fromkeys([*filter(None, whole), *shared])


def _load(model: nn.Module, state: State, in_chans: int, origin: str) -> list[str]:
    """Adapt stem and head of a state to the network, load it strictly, and return the changes."""
    own: State = model.state_dict()
    stem = _adapted_stem(own, state, _described(model, "first_conv"), in_chans)
    head = _replaced_head(own, state, _described(model, "classifier"))
    whole = state | stem | head
    for name in own.keys() & whole.keys():
        _require_sound(name, whole[name], own[name], origin)
    model.load_state_dict(whole, strict=True)
    changes = []
    if stem:
        channels = f"{in_chans} image channel{'s' * (in_chans > 1)}"
        changes.append(f"first convolution adapted to {channels}")
    if head:
        key, new = next(iter(head.items()))
        classes = f"{len(state[key])} classes"
        changes.append(f"classifier of {classes} replaced by a new one of {len(new)}")
    return changes


def _require_sound(name: str, value: Tensor, own: Tensor, origin: str) -> None:
    """Raise `WeightsError` where numbers would be changed by a cast, or are none."""
    counted = not own.is_floating_point() and torch.equal(
        value.to(own.dtype).to(value.dtype), value
    )
    if _kind(value) != _kind(own) and not counted:  # a counter may have been saved as 3.0
        raise WeightsError(
            f"weights {origin}: {name} is of type {value.dtype} and the network's of {own.dtype}; "
            "save the weights as they were trained, in a type of the same kind"
        )
    if value.is_floating_point() and not value.to(own.dtype).isfinite().all():
        raise WeightsError(
            f"weights {origin}: {name} holds values that are not finite in {own.dtype}; take the "
            "weights of an epoch that ended well"
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "real"
    return "complex" if tensor.is_complex() else "bool" if tensor.dtype is torch.bool else "int"


def _counts(value: Tensor, own: Tensor) -> bool:
    """Say whether whole numbers, as of a counter, were saved as 3.0."""
    return (_kind(value), _kind(own)) == ("real", "int") and bool((value == value.trunc()).all())


def _described(model: nn.Module, part: str) -> tuple[str, ...]:
    """Return the module names under which timm's description of the network has a part."""
    names: Any = getattr(model, "pretrained_cfg", {}).get(part) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _adapted_stem(own: State, state: State, names: Iterable[str], in_chans: int) -> State:
    """Return the first convolutions' weights (o, c, k, k), made for the network's channels."""
    from timm.models import adapt_input_conv

    adapted = {}
    for key in (f"{name}.weight" for name in names):
        if key not in own or key not in state or own[key].shape == state[key].shape:
            continue
        if own[key].ndim != 4 or state[key].ndim != 4:  # only timm knows the channels' layout
            continue
        channels, rest = divmod(state[key].shape[1] * in_chans, own[key].shape[1])
        if rest == 0 and channels != in_chans:  # a stem of patches has a multiple of the channels
            with suppress(NotImplementedError):  # then it is reported as a difference of shape
                adapted[key] = adapt_input_conv(in_chans, state[key], base_chans=channels)
    return adapted


def _replaced_head(own: State, state: State, names: Iterable[str]) -> State:
    """Return the network's own tensors for classifiers that differ in the number of classes."""
    return {
        key: value
        for name in names
        for key, value in own.items()
        if key.startswith(f"{name}.")
        and key in state
        and value.ndim == state[key].ndim > 0
        and len(value) != len(state[key])
        and value.shape[1:] == state[key].shape[1:]
    }


def _converted(model: nn.Module, state: State) -> State:
    """Return the state as timm's converter for this architecture makes it, or as it is."""
    module = sys.modules[type(model).__module__]
    convert: Callable[..., State] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    except CONVERSION_ERRORS:  # then the mismatch is reported in the names of the file
        return state
