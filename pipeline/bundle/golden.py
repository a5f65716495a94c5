"""Golden inputs: a few real images whose logits every engine must reproduce on the device."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from pipeline.data import Dataset, Split, batches, subset
from pipeline.emulation import emulated
from pipeline.engines.interface import Images, Logits
from pipeline.engines.onnxruntime import runner
from pipeline.onnx_graph import load_onnx

POOL = 1024  # validation images among which samples are sought
NAME_LENGTH = 60  # of a class in a file's name


def choose_samples(network: Path, data: Dataset, count: int) -> Split:
    """Return validation images of as many classes as possible, each the surest of its class.

    Rounding cannot turn over a class that the network sees clearly, so that top-1 agreement of a
    few images means something. They are sought among `POOL` images, always the same.

    Args:
        network: the ONNX file that is asked.
        data: validation images, and what normalises them.
        count: how many images; all of the pool where there are fewer.
    """
    pool = subset(data.validation, POOL, seed=0)
    rows = surest(expected_logits(network, normalised(pool, data)), pool.labels.numpy())[:count]
    return Split(pool.images[rows], pool.labels[rows])


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


def normalised(split: Split, data: Dataset) -> Images:
    """Return all images of a split as the network takes them."""
    [(images, _)] = batches(split, len(split), mean=data.mean, std=data.std, device="cpu")
    return images.numpy()


def expected_logits(network: Path, images: Images) -> Logits:
    """Return a graph's logits on one thread of the CPU, where sums always have one order.

    Raises:
        BackendError: ONNX Runtime cannot run the graph.
    """
    return runner(network, threads=1)(images)


def emulated_logits(network: Path, images: Images) -> Logits:
    """Return the logits of a half-precision graph that the CPU cannot run as it stands.

    Raises:
        ArtifactError: the graph cannot be emulated.
        BackendError: ONNX Runtime cannot run it even so.
    """
    graph = emulated(load_onnx(network))
    return runner(graph.SerializeToString(), threads=1)(images)


def sample_names(classes: Iterable[str]) -> list[str]:
    """Return a file name per image, ``sample_<class>.png``, with nothing in it that parts paths."""
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
