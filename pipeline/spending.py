"""What training costs in MACs while blocks leave the network."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.cost import count_macs
from models.surgery import left_out


class Spending:
    """Counts the MACs of a forward pass, again only when the network has changed.

    Args:
        model: a network in training, from which blocks are taken out meanwhile.
        example: one image, (1, c, h, w), on the model's device.
        besides: MACs that every image takes in addition, such as those of a teacher.
    """

    def __init__(self, model: nn.Module, example: Tensor, besides: int = 0) -> None:
        self.model, self.example, self.besides = model, example, besides
        self._whole: dict[int, int] = {}  # by the number of blocks that are gone
        self._blocks: dict[str, int] = {}

    def per_image(self, gone: Sequence[str], absent: Sequence[str]) -> int:
        """Return the MACs of one image.

        Args:
            gone: blocks that have been taken out.
            absent: blocks that are left out of this pass besides. The blocks keep the form of
                their features, so what one costs does not depend on the others.
        """
        if len(gone) not in self._whole:
            self._whole[len(gone)] = self._count()
        whole = self._whole[len(gone)]
        for name in absent:
            if name not in self._blocks:
                with left_out(self.model, [name]):
                    self._blocks[name] = whole - self._count()
        return whole - sum(self._blocks[name] for name in absent) + self.besides

    def _count(self) -> int:
        was_training = self.model.training
        macs = count_macs(self.model.eval(), self.example)
        self.model.train(was_training)
        return macs
