"""Fit what replaces removed blocks, in closed form on calibration images: no training.

Blocks are fitted in the order in which they run, each on the features that reach it in the network
whose earlier blocks are replaced already, against the block's output in the whole network. So a
replacement also corrects the errors of those before it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.hooks import run_to_end, run_to_start
from models.replacement.axes import channel_axes
from models.replacement.modules import ChannelMap
from models.surgery import bypass

Replacements = dict[str, ChannelMap]  # by the name of the block
RIDGE = 1e-6  # added to the inputs' covariance, relative to its mean variance
CONSTANT = 1e-10  # a variance this small, relative to the mean square, is rounding


@dataclass(frozen=True)
class Moments:
    """Second moments of a block's input x and wanted output y over all positions, centred."""

    mean_x: Float64[Tensor, " c"]
    mean_y: Float64[Tensor, " c"]
    xx: Float64[Tensor, "c c"]
    xy: Float64[Tensor, "c c"]


Weight = Tensor | None


def bias(_: Moments) -> Weight:
    """Fit x + b."""
    return None


def affine(moments: Moments) -> Weight:
    """Fit a ⊙ x + b by least squares, channel by channel; a = 1 where x never varies."""
    variance = moments.xx.diagonal()
    varies = variance > CONSTANT * moments.mean_x.square()
    slopes = moments.xy.diagonal() / torch.where(varies, variance, 1)
    return torch.where(varies, slopes, 1)


def linear(moments: Moments) -> Weight:
    """Fit W x + b by least squares, with a slight pull towards the identity.

    The pull decides only where the calibration images do not.
    """
    variance = moments.xx.diagonal().mean()
    ridge = (RIDGE * variance).maximum(CONSTANT * moments.mean_x.square().mean())
    pull = ridge.clamp_min(torch.finfo(torch.float64).tiny) * torch.eye(
        len(moments.xx), dtype=torch.float64, device=moments.xx.device
    )
    solved: Tensor = torch.linalg.solve(moments.xx + pull, moments.xy + pull)
    return solved.t()


FITS: dict[str, Callable[[Moments], Weight]] = {"bias": bias, "affine": affine, "linear": linear}
KINDS = ("identity", *FITS)  # by their cost


def cheapest(accuracies_pct: Mapping[str, float], slack_pct: float) -> str:
    """Return the cheapest kind whose accuracy is within `slack_pct` points of the best one's."""
    floor = max(accuracies_pct.values()) - slack_pct - 1e-9  # exactly the slack is allowed
    return next(kind for kind in KINDS if accuracies_pct.get(kind, -1.0) >= floor)


@torch.no_grad()
def fit(
    model: nn.Module, names: Sequence[str], kind: str, batches: Iterable[Tensor]
) -> Replacements:
    """Return what replaces each of the named blocks.

    Args:
        model: the whole network, in evaluation mode.
        names: the blocks to replace, in any order.
        kind: of `FITS`.
        batches: calibration images (n, c, h, w) on the model's device, read once per block.

    Raises:
        BlockError: a block's layers do not show which dimension holds the channels.
    """
    images = list(batches)
    found: Replacements = {}
    for name, axis in channel_axes(model, names, images[0]).items():
        shallow = bypass(model, [*found, name], found)
        moments = _moments(model, shallow, name, axis, images)
        weight = FITS[kind](moments)
        mean = moments.mean_x
        mapped = mean if weight is None else weight * mean if weight.ndim == 1 else weight @ mean
        offset = (moments.mean_y - mapped).float()
        found[name] = ChannelMap(None if weight is None else weight.float(), offset, axis)
    return found


def _moments(
    model: nn.Module, shallow: nn.Module, name: str, axis: int, images: Sequence[Tensor]
) -> Moments:
    """Return the moments, over the channels, of what enters a block and of what is wanted."""
    sums: list[Tensor] = []
    for batch in images:
        x, y = run_to_start(shallow, name, batch), run_to_end(model, name, batch)
        rows = [t.movedim(axis, -1).flatten(0, -2).double() for t in (x, y)]
        sums = _added(sums, *rows)
    count, sum_x, sum_y, xx, xy = sums
    mean_x, mean_y = sum_x / count, sum_y / count
    centred = (xx / count - torch.outer(mean_x, mean_x), xy / count - torch.outer(mean_x, mean_y))
    return Moments(mean_x, mean_y, *centred)


def _added(sums: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the running sums of 1, x, y, xxᵀ and xyᵀ with the rows of x and y (n, c) added."""
    own = [x.new_tensor(float(len(x))), x.sum(dim=0), y.sum(dim=0), x.t() @ x, x.t() @ y]
    return [a + b for a, b in zip(sums, own, strict=True)] if sums else own
