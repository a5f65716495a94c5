"""The prepared images: opened without reading them, and served in shuffled, normalised batches."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Generator, Tensor

from models.errors import ArtifactError
from models.evaluation import Forward, correct_and_total
from pipeline.core.artifacts import require_unchanged
from pipeline.core.distributed import WHOLE, Share, sum_over_processes
from pipeline.core.mapped import MappedImages, map_array
from pipeline.core.records import read_record
from pipeline.data.records import Prepared

EVALUATION_BATCH = 256  # wherever nothing is trained; another size would change rounding
EVALUATION_PIXELS = EVALUATION_BATCH * 64**2  # of larger images there are fewer at once

Images = UInt8[Tensor, "n c h w"]
Labels = Int64[Tensor, "n"]


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images of a batch, of which a process may hold a part.

    They are drawn for the whole batch, so that an image gets the same however many share it.
    """

    generator: Generator
    images: int  # of the whole batch
    share: Share = WHOLE

    def uniform(self) -> Float32[Tensor, " n"]:
        """Return a number from 0 to 1 for each of the own images."""
        return torch.rand(self.images, generator=self.generator)[self._own]

    def integers(self, high: int, rows: int = 1) -> Int64[Tensor, "rows n"]:
        """Return integers from 0 to `high`, exclusive: a column for each own image."""
        return torch.randint(high, (rows, self.images), generator=self.generator)[:, self._own]

    @property
    def _own(self) -> slice:
        return self.share.rows(self.images)


Augment = Callable[[Images, Draws], Images]
Batches = Iterator[tuple[Float32[Tensor, "b c h w"], Int64[Tensor, " b"]]]


@dataclass(frozen=True)
class Split:
    """Images and their labels, row by row, in the order of the source (often sorted by class)."""

    images: Images | MappedImages
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Int64[Tensor, " k"]) -> "Split":
        """Return these rows, read into memory."""
        return Split(self.images[rows], self.labels[rows])

    def draw(self, n: int, seed: int) -> Int64[Tensor, " k"]:
        """Return `n` row numbers drawn without replacement; all in random order if n is more."""
        return torch.randperm(len(self), generator=Generator().manual_seed(seed))[:n]

    def sample(self, n: int, seed: int = 0) -> "Split":
        """Return the rows that `draw` returns, read into memory."""
        return self[self.draw(n, seed)]


@dataclass(frozen=True)
class Dataset:
    """The three splits and what describes them.

    Networks take images normalised by mean and std: per channel, of train, of pixels in 0..1.
    """

    train: Split
    validation: Split
    test: Split
    classes: list[str]
    mean: list[float]
    std: list[float]
    image_size: int
    channels: int
    sha256: dict[str, str] = field(default_factory=dict)  # of the files it was opened from

    def normalised_by(self, mean: list[float], std: list[float]) -> "Dataset":
        """Return the same images, normalised as a network was trained with."""
        return dataclasses.replace(self, mean=mean, std=std)

    @property
    def evaluation_batch(self) -> int:
        """Return how many images are evaluated at once: 256 of up to 64×64, 16 of 256×256."""
        return max(4, min(EVALUATION_BATCH, EVALUATION_PIXELS // self.image_size**2))

    def batches(
        self,
        split: Split,
        batch_size: int | None = None,
        *,
        device: torch.device | str = "cpu",
        generator: Generator | None = None,
        augment: Augment | None = None,
        rows: Int64[Tensor, " k"] | None = None,
        share: Share = WHOLE,
    ) -> Batches:
        """Yield every image once, normalised by (x / 255 − mean) / std, with its label.

        The last batch may be smaller; one that would leave a process a single image joins the batch
        before it: batch norm cannot learn from one.

        Args:
            split: one of the three, or a sample of one.
            batch_size: images of all processes together; without it, `evaluation_batch`.
            device: where images and labels are wanted.
            generator: of the CPU; shuffles and feeds `augment`, and its state alone decides what
                comes, on whatever device. Without one, images come in order.
            augment: changes the images of a batch before they are normalised.
            rows: of the split; where given, those images are all there is.
            share: the part of each batch that comes; all parts together are what comes without.
        """
        if augment is not None and generator is None:
            raise ValueError("augment draws random numbers; pass a generator")
        device = torch.device(device)
        scale, shift = _normalisation(self.mean, self.std, device)
        every = torch.arange(len(split)) if rows is None else rows
        n, size = len(every), batch_size or max(self.evaluation_batch, 2 * share.of)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for places in torch.split(order, batch_sizes(n, size, share.of)):
            own = every[places[share.rows(len(places))]]
            images = _to(device, split.images[own])
            if augment is not None and generator is not None:
                images = augment(images, Draws(generator, len(places), share))
            yield images.float().mul_(scale).add_(shift), _to(device, split.labels[own])

    def normalised(
        self, split: Split, device: torch.device | str = "cpu"
    ) -> Float32[Tensor, "n c h w"]:
        """Return all images of a split or a sample as one batch."""
        [(images, _)] = self.batches(split, len(split), device=device)
        return images

    def accuracy_pct(
        self,
        split: Split,
        forward: Forward,
        device: torch.device | str = "cpu",
        share: Share = WHOLE,
    ) -> float:
        """Return the top-1 accuracy of `forward` in percent.

        With `share`, all processes call it, each measures its part, and all get the whole result.
        """
        loader = self.batches(split, device=device, share=share)
        correct, total = correct_and_total(forward, loader)
        if share.of > 1:
            counts = torch.tensor((correct, total), device=device)
            correct, total = sum_over_processes(counts).tolist()
        return 100 * correct / total

    def validation_accuracy_pct(
        self, forward: Forward, device: torch.device | str = "cpu", share: Share = WHOLE
    ) -> float:
        """Return `accuracy_pct` over the validation split."""
        return self.accuracy_pct(self.validation, forward, device, share)


def load(folder: Path) -> Dataset:
    """Open a folder written by `prepare`; images stay on disk until they are used.

    Raises:
        ArtifactError: a file is missing or damaged, or is not what `prepare` wrote.
        OutOfMemoryError: the process may not have the address space for a file.
    """
    manifest = read_record(folder / "manifest.json", Prepared)
    if {len(manifest.mean), len(manifest.std)} != {manifest.channels}:
        raise ArtifactError(
            f"{folder / 'manifest.json'} has not one mean and std for each of {manifest.channels} "
            "channels; delete the folder and run `dvc repro`"
        )
    return Dataset(
        train=_open(folder, "train", manifest.counts.train, manifest),
        validation=_open(folder, "validation", manifest.counts.validation, manifest),
        test=_open(folder, "test", manifest.counts.test, manifest),
        classes=manifest.classes,
        mean=manifest.mean,
        std=manifest.std,
        image_size=manifest.image_size,
        channels=manifest.channels,
        sha256=manifest.sha256,
    )


def _open(folder: Path, split: str, by_class: Mapping[str, int], manifest: Prepared) -> Split:
    size, count = manifest.image_size, sum(by_class.values())
    image_shape = (count, manifest.channels, size, size)
    files = [folder / f"{split}_{kind}.npy" for kind in ("images", "labels")]
    for file in files:
        require_unchanged(file, manifest.sha256.get(file.name, "none"))
    images = map_array(files[0], np.dtype(np.uint8), image_shape)
    labels = map_array(files[1], np.dtype(np.int64), (count,))
    return Split(MappedImages(images), torch.from_numpy(np.array(labels)))


def validation_sample(folder: Path, n: int) -> Float32[np.ndarray, "n c h w"]:
    """Return up to `n` validation images of a folder written by `prepare`, normalised.

    Raises:
        ArtifactError: as `load`.
    """
    data = load(folder)
    return data.normalised(data.validation.sample(n)).numpy()


def batch_sizes(images: int, batch_size: int, processes: int = 1) -> list[int]:
    """Return the sizes of the batches that `Dataset.batches` makes, for all processes together."""
    whole, rest = divmod(images, batch_size)
    sizes = [batch_size] * whole + [rest] * bool(rest)
    if len(sizes) > 1 and sizes[-1] < 2 * processes:
        sizes[-2:] = [batch_size + sizes[-1]]
    return sizes


def _normalisation(
    mean: list[float], std: list[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (c, 1, 1), so that x · scale + shift is the normalised image."""
    means, stds = (torch.tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (mean, std))
    return (1 / (255 * stds)).float().to(device), (-means / stds).float().to(device)


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
