"""The two methods: which parts of a network are compared and removed, and in which order.

`paper` (LaCoOT, arXiv 2406.08933, sections 3 and 4) compares a block's input with its output and
removes the least distant first. `official` follows the authors' public code: the unit depends on
the architecture and so does the order.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.errors import BlockError
from models.units import UNITS, Unit
from pipeline.params import Method

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


def select_units(method: Method, model: nn.Module, example: Tensor) -> Selection:
    """Find the units that `method` asks for.

    Args:
        method: the `method` section of a variant.
        model: a network.
        example: input images (n, c, h, w) on the model's device.

    Raises:
        ShoalError: the network does not run on the example.
        BlockError: the network has no unit of the kind that was asked for by name.
    """
    orders = ORDERS[method.mode]
    if method.mode == "official":
        return _first_offered(orders, model, example)
    unit = "block" if method.unit == "auto" else method.unit
    selection = Selection(unit, orders[unit], UNITS[unit](model, example))
    if method.unit != "auto" and not selection.removable:
        raise BlockError(
            f"{type(model).__name__} has no removable unit of the kind method.unit = {unit!r}; "
            f"set it to auto or {' or '.join(other for other in orders if other != unit)}"
        )
    return selection


def _first_offered(orders: dict[str, str], model: nn.Module, example: Tensor) -> Selection:
    """Return the first selection with something to remove; the last where none has."""
    for unit, criterion in orders.items():
        selection = Selection(unit, criterion, UNITS[unit](model, example))
        if selection.removable:
            break
    return selection
