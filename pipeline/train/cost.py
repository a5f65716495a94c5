"""What training costs in MACs while blocks are removed from the network."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

from torch import Tensor, nn

from models.cost import count_macs
from models.surgery import bypassed


class TrainingCost:
    """Counts the MACs of a forward pass, again only when the network has changed.

    Args:
        model: a network in training, from which blocks are removed meanwhile.
        example: one image, (1, c, h, w), on the model's device.
        teacher: of which every image takes a forward pass too; in evaluation mode.
    """

    def __init__(self, model: nn.Module, example: Tensor, teacher: nn.Module | None = None) -> None:
        self.model, self.example = model, example
        self._teacher = 0 if teacher is None else count_macs(teacher, example)
        self._macs = cache(self._count)

    def per_image(self, removed: Sequence[str], others: Sequence[str]) -> int:
        """Return the MACs of one image without removed blocks, and others that are bypassed.

        The blocks keep the form of their features, so what one costs does not depend on the others.
        """
        whole = self._macs(len(removed))
        return (
            whole - sum(whole - self._macs(len(removed), name) for name in others) + self._teacher
        )

    def _count(self, removed: int, without: str | None = None) -> int:
        """Return the MACs of the network as it is, with so many blocks removed."""
        was_training = self.model.training
        with nullcontext() if without is None else bypassed(self.model, [without]):
            macs = count_macs(self.model.eval(), self.example)
        self.model.train(was_training)
        return macs
