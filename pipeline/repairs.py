"""What the metrics of `heal` say of a level: how it was repaired, and what of that is shipped."""

from collections.abc import Mapping
from typing import Any

Level = Mapping[str, Any]  # an entry under `levels`

AS_PLANNED = "removed"  # nothing is repaired

# What may be shipped, and the key of its validation accuracy, that of the PyTorch network.
ACCURACIES = {
    AS_PLANNED: "val_accuracy_removed_pct",
    "batch_norm": "val_accuracy_bn_pct",
    "healed": "val_accuracy_healed_pct",
}


def is_repaired(level: Level) -> bool:
    """Say whether a level is shipped with other weights than planned."""
    return bool(level["shipped"] != AS_PLANNED)


def shipped_accuracy_pct(level: Level) -> float:
    """Return the validation accuracy of what is shipped of a level."""
    return float(level[ACCURACIES[level["shipped"]]])
