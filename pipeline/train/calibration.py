"""Which blocks of a network in training matter least, and what replaces them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from models.replacement.fitting import Replacements, fit
from models.units import Unit
from pipeline.core.distributed import from_first
from pipeline.core.params import Score, Train
from pipeline.data.dataset import Dataset
from pipeline.plan.scoring.criteria import CRITERIA, gather
from pipeline.train.epoch import MONITORED_IMAGES

REPLACEMENT_IMAGES = 256  # on which replacements are fitted


@dataclass(frozen=True)
class Calibration:
    """The network in training on training images."""

    model: nn.Module
    data: Dataset
    params: Train
    device: torch.device

    def ranked(self, units: Sequence[Unit], criterion: str, *, together: int) -> list[str]:
        """Return the names of units, the least important first, by a criterion.

        `together` of them are to be removed.
        """
        score = Score(
            seed=self.params.seed,
            samples=MONITORED_IMAGES,
            projections=self.params.penalty.projections,
            recovery_images=0,  # the training itself is what the network recovers by
        )
        was_training = self.model.training
        measures = gather(self.model, units, self.data, score, self.device, together=together)
        scores = CRITERIA[criterion](measures)
        self.model.train(was_training)
        # Rounding must not let the processes of a training part ways.
        return from_first(sorted(scores, key=lambda name: scores[name]))

    def fitted(self, names: Sequence[str], kind: str) -> Replacements:
        """Return what replaces blocks, fitted to what they give in the network as it is."""
        some = self.data.train.sample(REPLACEMENT_IMAGES, self.params.seed)
        loader = self.data.batches(some, device=self.device)
        maps = fit(self.model.eval(), names, kind, (images for images, _ in loader))
        self.model.train()
        return maps
