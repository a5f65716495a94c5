"""The prepared images: opened without reading them, and served in shuffled, normalised batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Generator, Tensor

from models.errors import ArtifactError
from pipeline.artifacts import read_json
from pipeline.distributed import WHOLE, Share

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
        """Return integers from 0 to `high`, itself left out: a column for each own image."""
        return torch.randint(high, (rows, self.images), generator=self.generator)[:, self._own]

    @property
    def _own(self) -> slice:
        return self.share.rows(self.images)


Augment = Callable[[Images, Draws], Images]


@dataclass(frozen=True)
class Split:
    """Images and their labels, row by row, in the order of the source (often sorted by class)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The three splits and what describes them; mean and std are per channel, of train, in 0..1."""

    train: Split
    validation: Split
    test: Split
    classes: list[str]
    mean: list[float]
    std: list[float]
    image_size: int
    channels: int


def load(folder: Path) -> Dataset:
    """Open a folder written by `prepare`; images stay on disk until they are used.

    Raises:
        ArtifactError: a file is missing or damaged, or does not agree with the manifest.
    """
    manifest = read_json(folder / "manifest.json")
    try:
        return Dataset(
            **{split: _open(folder, split, manifest) for split in ("train", "validation", "test")},
            classes=manifest["classes"],
            mean=manifest["mean"],
            std=manifest["std"],
            image_size=manifest["image_size"],
            channels=manifest["channels"],
        )
    except (KeyError, TypeError) as e:
        raise ArtifactError(
            f"{folder / 'manifest.json'} is damaged ({e!r}); delete it and run `dvc repro`"
        ) from e


def _open(folder: Path, split: str, manifest: dict[str, Any]) -> Split:
    size, count = manifest["image_size"], sum(manifest["counts"][split].values())
    image_shape = (count, manifest["channels"], size, size)
    images = _mapped(folder / f"{split}_images.npy", np.dtype(np.uint8), image_shape)
    labels = _mapped(folder / f"{split}_labels.npy", np.dtype(np.int64), (count,))
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Copy on write: torch warns of arrays it may not write to, and the file stays as it is.
        array = np.lib.format.open_memmap(path, mode="c")
    except FileNotFoundError as e:
        raise ArtifactError(f"{path} is missing; `dvc repro` makes it") from e
    except (ValueError, EOFError, OverflowError) as e:
        raise ArtifactError(f"{path} is damaged ({e}); delete it and run `dvc repro`") from e
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactError(
            f"{path} holds {array.dtype} {array.shape}, but its manifest says {dtype} {shape}; "
            "delete the folder and run `dvc repro`"
        )
    return array


def subset(split: Split, n: int, seed: int) -> Split:
    """Return `n` images drawn without replacement, in random order; all of them where n is more."""
    rows = drawn(split, n, seed)
    return Split(split.images[rows], split.labels[rows])


def drawn(split: Split, n: int, seed: int) -> Int64[Tensor, " k"]:
    """Return the rows of what `subset` reads into memory: for `batches`, which need not."""
    return torch.randperm(len(split), generator=Generator().manual_seed(seed))[:n]


def batches(  # noqa: PLR0913 - the keywords of a loader
    split: Split,
    batch_size: int,
    *,
    mean: list[float],
    std: list[float],
    device: torch.device | str,
    generator: Generator | None = None,
    augment: Augment | None = None,
    rows: Int64[Tensor, " k"] | None = None,
    share: Share = WHOLE,
) -> Iterator[tuple[Float32[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
    """Yield every image once, normalised by (x / 255 − mean) / std, with its label, on `device`.

    With `rows` those images alone are what there is.

    A CPU `generator` shuffles and feeds `augment`: its state alone decides what comes, on whatever
    device. Without one, images come in order. With `share` the own part of each batch comes, and
    all parts together are what comes without. The last batch may be smaller; one that would leave a
    process a single image joins the batch before it: batch norm cannot learn from one.
    """
    if augment is not None and generator is None:
        raise ValueError("augment draws random numbers; pass a generator")
    device = torch.device(device)
    scale, shift = _normalisation(mean, std, device)
    every = torch.arange(len(split)) if rows is None else rows
    n = len(every)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    for places in torch.split(order, batch_sizes(n, batch_size, share.of)):
        own = every[places[share.rows(len(places))]]
        images = _to(device, split.images[own])
        if augment is not None and generator is not None:
            images = augment(images, Draws(generator, len(places), share))
        yield images.float().mul_(scale).add_(shift), _to(device, split.labels[own])


def validation_sample(folder: Path, n: int) -> Float32[np.ndarray, "n c h w"]:
    """Return up to `n` validation images of a folder written by `prepare`, normalised.

    Raises:
        ArtifactError: as `load`.
    """
    data = load(folder)
    some = subset(data.validation, n, seed=0)
    [(images, _)] = batches(some, len(some), mean=data.mean, std=data.std, device="cpu")
    return images.numpy()


def batch_sizes(images: int, batch_size: int, processes: int = 1) -> list[int]:
    """Return the sizes of the batches that `batches` makes of so many images, for all processes."""
    sizes = [batch_size] * (images // batch_size) + [images % batch_size] * bool(
        images % batch_size
    )
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
