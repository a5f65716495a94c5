"""What each removed block saved, measured: a level against the level before, round by round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.bootstrap import Interval, Rounds, saving_interval


@dataclass(frozen=True)
class Saving:
    """How much faster a level is than the one before it that was timed.

    Attributes:
        blocks: that are removed here and were not there; one, where every level was timed.
        since_level: the level before.
        ms: difference of the medians; negative where the level is slower. The savings of all
            levels add up to the difference between the first and the last.
        ms_ci: 95 % interval; the saving is within the noise where it holds 0.
    """

    blocks: list[str]
    since_level: int
    ms: float
    ms_ci: Interval | None


def savings(
    removed: Mapping[int, Sequence[str]], durations: Mapping[int, Rounds]
) -> dict[int, Saving]:
    """Return the saving of every timed level but the first.

    Args:
        removed: the blocks that a level lacks, for every level.
        durations: by level; of one engine each, timed in the same rounds.
    """
    return {
        level: Saving(
            blocks=[block for block in removed[level] if block not in removed[before]],
            since_level=before,
            ms=float(np.median(durations[before]) - np.median(durations[level])),
            ms_ci=saving_interval(durations[before], durations[level]),
        )
        for before, level in pairwise(sorted(durations))
    }
