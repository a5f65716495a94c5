"""Initial weights: read safely from a file, and loaded strictly into a network.

Two things may differ from the network that the weights were saved from: its number of classes (the
classifier is then left as it was created) and its image channels (the first convolution is summed
or repeated over channels, as timm does). Anything else is an error.
"""

import difflib
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from models.errors import WeightsError
from models.hashing import file_sha256
from models.saving import named_sha256

State = dict[str, Tensor]
SHOWN = 3  # names listed of each kind of mismatch
REMEDY = (
    "a state dict of tensors alone is allowed, as written by safetensors' `save_file` (its name "
    "must end in .safetensors) or `torch.save(model.state_dict(), path)`"
)
# What the readers raise for damaged files.
DAMAGE_ERRORS = (
    SafetensorError,
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    AssertionError,
    struct.error,
)
# What timm's converters raise for tensors that they were not written for.
CONVERSION_ERRORS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and for people where they are from."""

    state: State
    origin: str


def read_weights(path: Path) -> Weights:
    """Read a safetensors file or a torch state dict; nothing in the file can run code.

    Of a training checkpoint the state dict in it is taken, and of that the averaged weights where
    there are any, as timm does.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    from timm.models import load_state_dict

    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file; correct model.weights")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except DAMAGE_ERRORS as e:
        raise WeightsError(f"weights {path} cannot be read: {_reason(e)}; {REMEDY}") from e
    except (AttributeError, TypeError, LookupError) as e:
        raise WeightsError(f"weights {path} hold no state dict; {REMEDY}") from e
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        found = (
            f"{strange[0]!r} is of type {type(state[strange[0]]).__name__}" if strange else "no key"
        )
        raise WeightsError(f"weights {path} are no state dict ({found}); {REMEDY}")
    return Weights(state, f"{path} (sha256 {file_sha256(path)[:16]}…)")


def _reason(error: Exception) -> str:
    """Return in a line what happened; of torch's advice on unsafe loading only what was found."""
    cause = error.__cause__ if isinstance(error.__cause__, pickle.UnpicklingError) else error
    text = " ".join(str(cause).split())
    for advice in ("trusted source. ", "WeightsUnpickler error: "):
        text = text.rpartition(advice)[2]
    text = re.split(r" Please | Check the documentation", text)[0].rstrip(". ")
    return text or type(error).__name__


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
        WeightsError: tensors are missing, unexpected or of another shape.
    """
    fit = _fit(model, weights.state, in_chans)
    if fit.problems:
        converted = _fit(model, _converted(model, weights.state), in_chans)
        fit = fit if converted.problems else converted
    if fit.problems:
        raise WeightsError(
            f"weights {weights.origin} do not fit the network: {'; '.join(fit.problems)}; "
            "set model.name and model.options to those of the network that was saved"
        )
    model.load_state_dict(fit.state, strict=True)
    return fit.changes


@dataclass(frozen=True)
class _Fit:
    state: State
    changes: list[str]  # made to the state
    problems: list[str]  # left between the state and the network


def _fit(model: nn.Module, state: State, in_chans: int) -> _Fit:
    """Adapt stem and head of a state to the network, and say what still differs."""
    own: State = model.state_dict()
    stem = _adapted_stem(own, state, _described(model, "first_conv"), in_chans)
    head = _replaced_head(own, state, _described(model, "classifier"))
    changes = [
        f"first convolution adapted to {in_chans} image channel{'s' * (in_chans > 1)}"
        for _ in list(stem)[:1]
    ] + [
        f"classifier of {len(state[key])} classes replaced by a new one of {len(new)}"
        for key, new in list(head.items())[:1]
    ]
    fitted = state | stem | head
    return _Fit(fitted, changes, list(_differences(own, fitted)))


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
            with suppress(NotImplementedError):  # then it is told as a difference of shape
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
    except CONVERSION_ERRORS:  # then the mismatch is told in the names of the file
        return state


def _differences(own: State, state: State) -> Iterable[str]:
    # Networks saved before batch norm counted its batches lack the counter; torch sets it to 0.
    missing = [k for k in own if k not in state and not k.endswith(".num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing:
        yield f"{len(missing)} missing: {_listed(missing, unexpected)}"
    if unexpected:
        yield f"{len(unexpected)} unexpected: {_listed(unexpected, [])}"
    if reshaped:
        shapes = (
            f"{key} is {tuple(state[key].shape)} and should be {tuple(own[key].shape)}"
            for key in reshaped[:SHOWN]
        )
        more = ", …" * (len(reshaped) > SHOWN)
        yield f"{len(reshaped)} of another shape: {', '.join(shapes)}{more}"


def _listed(names: list[str], others: list[str]) -> str:
    shown = []
    for name in names[:SHOWN]:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        shown.append(f"{name!r} (there is {close[0]!r})" if close else repr(name))
    return ", ".join(shown) + ", …" * (len(names) > SHOWN)
