"""What enters and leaves each unit: captured by hooks, and measured over a calibration set."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from models.hooks import hooked, paired
from models.units import Unit
from pipeline.distances.projections import directions
from pipeline.distances.sliced import projected_distances

Features = dict[str, tuple[Tensor, Tensor]]  # unit's name → its compared pair, each (n, ...)


@dataclass(frozen=True)
class BlockStatistics:
    """How far a unit is from the identity, over a calibration set."""

    msw: float  # max-sliced Wasserstein distance of input and output
    sliced: float  # sliced Wasserstein distance
    displacement: float  # E‖f(x) − x‖ / E‖x‖: 0 only for the identity, unlike the distances
    cosine: float  # E cos(x, f(x))


@contextmanager
def block_features(model: nn.Module, units: Iterable[Unit]) -> Iterator[Features]:
    """Yield a dict that holds, after each forward pass, every unit's compared input and output.

    The tensors are the network's own, not copies, and carry its graph. Units that were removed
    from the network before the pass are not in it.
    """
    features: Features = {}
    ends = {unit.name: (unit.entering, unit.leaving) for unit in units}

    def record(name: str, x: Tensor, y: Tensor) -> None:
        features[name] = (x, y)

    with hooked(model, [""], on_enter=lambda *_: features.clear()), paired(model, ends, record):
        yield features


def measure_blocks(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Iterable[Tensor],
    *,
    n_projections: int,
    seed: int,
) -> dict[str, BlockStatistics]:
    """Measure each unit over all batches at once, in evaluation mode.

    Directions are drawn once per feature width and shared by the units of that width. Only the
    projections (N, L) are kept, so the distances are those of the whole set and not a mean over
    batches.

    Args:
        model: the network.
        units: what is compared, each with a pair of equal size.
        batches: images (n, c, h, w) on the model's device.
        n_projections: directions per feature width.
        seed: of the directions; the same seed gives the same directions.
    """
    sums = {unit.name: _Sums() for unit in units}
    shared: dict[int, Float[Tensor, "d L"]] = {}
    with torch.no_grad(), block_features(model.eval(), units) as features:
        for images in batches:
            model(images)
            for name, (x, y) in features.items():
                x, y = x.flatten(1).float(), y.flatten(1).float()  # noqa: PLW2901 - (n, d)
                if x.shape[1] not in shared:
                    generator = torch.Generator().manual_seed(seed)
                    shared[x.shape[1]] = directions(
                        x.shape[1], n_projections, generator=generator, device=x.device
                    )
                sums[name].add(x, y, shared[x.shape[1]])
    return {name: total.statistics() for name, total in sums.items()}


@dataclass
class _Sums:
    """Running totals of one unit."""

    projected_inputs: list[Float[Tensor, "n L"]] = field(default_factory=list)
    projected_outputs: list[Float[Tensor, "n L"]] = field(default_factory=list)
    displacement: float = 0.0
    norm: float = 0.0
    cosine: float = 0.0
    count: int = 0

    def add(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], theta: Tensor) -> None:
        self.projected_inputs.append(x @ theta)
        self.projected_outputs.append(y @ theta)
        self.displacement += (y - x).norm(dim=1).sum().item()
        self.norm += x.norm(dim=1).sum().item()
        self.cosine += cosine_similarity(x, y).sum().item()
        self.count += len(x)

    def statistics(self) -> BlockStatistics:
        msw, sliced = projected_distances(
            torch.cat(self.projected_inputs).t(), torch.cat(self.projected_outputs).t()
        )
        relative = self.displacement / self.norm if self.norm else float(self.displacement > 0)
        return BlockStatistics(msw.item(), sliced.item(), relative, self.cosine / self.count)
