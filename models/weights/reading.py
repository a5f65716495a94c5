"""Files of weights as people have them: the state dict in whatever a training saved around it."""

import argparse
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import WeightsError

State = dict[str, Tensor]
REMEDY = (
    "a state dict of tensors alone is allowed, as written by safetensors' `save_file` (its name "
    "must end in .safetensors) or `torch.save(model.state_dict(), path)`"
)
# What the readers raise for damaged files.
DAMAGE_ERRORS = (
    *(SafetensorError, struct.error, RuntimeError, ValueError, EOFError, OSError, AssertionError),
    *(pickle.UnpicklingError, AttributeError, TypeError, LookupError),
)
# Under which key a checkpoint holds its state dict; averaged weights come first.
CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module"),
)
# What stands beside tensors in checkpoints and cannot run code: numbers of NumPy, and arguments.
REBUILDERS: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
HARMLESS: list[Any] = [
    *((f, f"numpy.{v}.multiarray.{f.__name__}") for v in ("core", "_core") for f in REBUILDERS),
    *(np.ndarray, np.dtype),
    *(type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"),
    argparse.Namespace,
]


def read_state(path: Path) -> tuple[State, str]:
    """Return the state dict in a file, and the key of the checkpoint that it was under, if any.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file; correct model.weights")
    try:
        state, key = _innermost(_read(path))
    except DAMAGE_ERRORS as e:
        raise WeightsError(f"weights {path} cannot be read: {_reason(e)}; {REMEDY}") from e
    if not isinstance(state, Mapping):
        raise WeightsError(f"weights {path} hold no state dict; {REMEDY}")
    if not state:
        raise WeightsError(f"weights {path} are no state dict (no key); {REMEDY}")
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            found = f"{name!r} is of type {type(value).__name__}"
            raise WeightsError(f"weights {path} are no state dict ({found}); {REMEDY}")
    return dict(state), key


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals(HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _innermost(found: Any, key: str = "") -> tuple[Any, str]:
    """Return the state dict in a checkpoint: under a usual key, or the only one that there is."""
    if not isinstance(found, Mapping) or any(isinstance(v, Tensor) for v in found.values()):
        return found, key
    inner = {k: v for k, v in found.items() if isinstance(v, Mapping)}
    usual = [k for k in CONTAINERS if k in inner]
    others = [k for k, v in inner.items() if v and all(isinstance(t, Tensor) for t in v.values())]
    chosen = usual[:1] or (others if len(others) == 1 else [])
    return _innermost(inner[chosen[0]], str(chosen[0])) if chosen else (found, key)


def _reason(error: Exception) -> str:
    """Return in a line what happened; of torch's advice on unsafe loading only what was found."""
    text = " ".join(str(error).split())
    for advice in ("trusted source. ", "WeightsUnpickler error: "):
        text = text.rpartition(advice)[2]
    text = re.split(r" Please | Check the documentation", text)[0].rstrip(". ")
    return text or type(error).__name__
