"""A training that has left the finite numbers: found after every epoch, told with what helps."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from models.errors import ShoalError
from pipeline.params import Train


class DivergedError(ShoalError):
    """Loss, weights or distances of an epoch are not finite."""


def require_finite(
    entry: Mapping[str, Any], model: nn.Module, params: Train, checkpoint: Path, *, whole: bool
) -> None:
    """Raise `DivergedError` where an epoch did not end well.

    A loss that was finite up to the last step leaves weights that need not be.

    Args:
        entry: of the epoch, as far as it is known.
        model: as it is after the epoch.
        params: what is to be lowered.
        checkpoint: where the state after the epoch before lies.
        whole: no block has gone, so that another training can start from that state.
    """
    what = _not_finite(entry, model)
    if what is None:
        return
    epoch = int(entry["epoch"])
    lower = f"lower learning_rate (now {params.learning_rate})"
    if params.penalty.weight:
        lower += f" or penalty.lambda (now {params.penalty.weight})"
    good = "no epoch ended well"
    if epoch > 1:
        good = f"epoch {epoch - 1} was the last good one"
        good += f": to go on from it, set model.weights to {checkpoint}" if whole else ""
    raise DivergedError(f"{what} in epoch {epoch}; {lower}; {good}")


def _not_finite(entry: Mapping[str, Any], model: nn.Module) -> str | None:
    """Say what is not finite; None where all is."""
    if not math.isfinite(entry["loss"]):
        return f"the loss is {entry['loss']}"
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            return f"the weights of {name} are not finite"
    for name, distance in entry.get("distances", {}).items():
        if not math.isfinite(distance):
            return f"the distance at {name} is {distance}"
    return None
