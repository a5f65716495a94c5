"""Golden inputs: a few real images whose logits every engine must reproduce on the device."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from models.errors import BackendError
from pipeline.core.arrays import Images, Logits
from pipeline.data.dataset import Dataset, Split
from pipeline.engines.precision.dtypes import HALF, element_types
from pipeline.engines.precision.emulation import EMULATED, emulated
from pipeline.export.boundaries import load_onnx
from pipeline.export.session import runner

POOL = 1024  # validation images among which samples are chosen
NAME_LENGTH = 60  # of a class in a file's name


def choose_samples(network: Path, data: Dataset, count: int) -> Split:
    """Return validation images of as many classes as possible, each the surest of its class.

    Rounding cannot turn over a class that the network sees clearly, so that top-1 agreement of a
    few images means something. They are chosen among `POOL` images, always the same.

    Args:
        network: the ONNX file that is asked.
        data: validation images, and what normalises them.
        count: how many images; all of the pool where there are fewer.
    """
    pool = data.validation.sample(POOL)
    rows = surest(logits_of(network, data.normalised(pool).numpy()), pool.labels.numpy())[:count]
    return pool[torch.from_numpy(rows)]


def surest(
    logits: Float32[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return all rows: the surest of each class in turn, then the second of each, and so on.

    An image is the surer, the further its own class's logit lies above the largest other.
    """
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    margin = logits[rows, labels] - others.max(axis=1)
    by_class = np.lexsort((rows, -margin, labels))  # the surest of each class first
    own = labels[by_class]
    rank = rows - np.searchsorted(own, own)  # 0 for the first of each class
    order: np.ndarray = by_class[np.lexsort((own, rank))]
    return order


def logits_of(network: Path, images: Images) -> Logits:
    """Return a graph's logits on one thread of the CPU, where sums always have one order.

    Raises:
        BackendError: ONNX Runtime cannot run the graph.
    """
    return runner(network, threads=1)(images)


def golden_logits(network: Path, images: Images) -> tuple[Logits, str]:
    """Return the logits to expect of a graph, and how they were computed.

    A half-precision graph that the CPU cannot run as it stands is emulated.

    Raises:
        ArtifactError: the graph cannot be emulated.
        BackendError: ONNX Runtime cannot run it even so.
    """
    try:
        return logits_of(network, images), network.name
    except BackendError:
        graph = load_onnx(network)
        if not set(HALF.values()) & set(element_types(graph).values()):
            raise
        computable = emulated(graph).SerializeToString()
        return runner(computable, threads=1)(images), f"{network.name}, {EMULATED}"


def sample_names(classes: Iterable[str]) -> list[str]:
    """Return a file name per image, ``sample_<class>.png``, with no path separator in it."""
    names: list[str] = []
    for name in classes:
        stem = "sample_" + re.sub(r"[^\w-]+", "_", name)[:NAME_LENGTH]
        endings = (f"_{number}" if number > 1 else "" for number in itertools.count(1))
        taken = {other.lower() for other in names}  # some file systems ignore case
        names.append(next(n for end in endings if (n := f"{stem}{end}.png").lower() not in taken))
    return names


def write_png(pixels: UInt8[np.ndarray, "c h w"], path: Path) -> None:
    """Write an image without loss, grey (1) or RGB (3)."""
    image = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    Image.fromarray(np.ascontiguousarray(image)).save(path, format="PNG")
