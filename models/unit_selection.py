"""The two methods: which parts of a network are compared and removed, and in which order.

`paper` (LaCoOT, arXiv 2406.08933, sections 3 and 4) compares a block's input with its output and
removes the least distant first. `official` follows the authors' public code: the unit depends on
the architecture and so does the order.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.errors import BlockError
from models.units import UNITS, Unit

# mode → {unit: the criterion that the mode orders by}. `official` takes the first unit that the
# network offers: MobileNetV2 has the first, Swin the second, ResNet the third.
ORDERS = {
    "paper": {"block": "msw", "depthwise": "msw"},
    "official": {
        "depthwise": "msw_validation",
        "mlp_branch": "msw_validation",
        "later_block": "deepest_first",
    },
}


@dataclass(frozen=True)
class Selection:
    """The units of a network under a method, in the order in which they run."""

    unit: str  # a key of `UNITS`
    criterion: str  # what orders their removal where params.yaml does not say
    units: list[Unit]

    @property
    def removable(self) -> list[Unit]:
        """Return those that can be removed."""
        return [unit for unit in self.units if unit.removable]


def select_units(
    model: nn.Module, example: Tensor, mode: str = "paper", unit: str = "auto"
) -> Selection:
    """Find the units that a method asks for.

    Args:
        model: a network.
        example: input images (n, c, h, w) on the model's device.
        mode: a key of `ORDERS`.
        unit: a key of that mode; ``auto`` is what the mode prescribes.

    Raises:
        ShoalError: the network does not run on the example.
        BlockError: the network has no unit of the kind that was asked for by name.
    """
    orders = ORDERS[mode]
    kinds = list(orders) if mode == "official" else ["block" if unit == "auto" else unit]
    for kind in kinds:
        selection = Selection(kind, orders[kind], UNITS[kind](model, example))
        if selection.removable:
            return selection
    if unit != "auto":
        raise BlockError(
            f"{type(model).__name__} has no removable unit of the kind method.unit = {unit!r}; "
            f"set it to auto or {' or '.join(other for other in orders if other != kind)}"
        )
    return selection
