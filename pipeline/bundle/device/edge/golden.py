"""The golden inputs and the logits to expect of them."""

import zipfile
import zlib

import numpy as np

from edge.checks import BundleError
from edge.files import UNPACK, Bundle, checked
from edge.images import read_labels
from edge.runtime import Logits

DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_golden(bundle: Bundle) -> dict[str, Logits]:
    """Return the arrays of golden.npz: ``images`` (n, c, h, w), and (n, k) for every graph.

    Raises:
        BundleError: it is missing, altered, or does not fit what the manifest says.
    """
    path = checked(bundle, "golden.npz")
    names = ["images", *(graph["golden"] for graph in bundle.manifest["graphs"])]
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise BundleError(f"golden.npz is damaged: it is compressed; {UNPACK}")
        with np.load(path, allow_pickle=False) as arrays:
            golden = {name: arrays[name] for name in names}
    except DAMAGE as e:
        raise BundleError(f"golden.npz is damaged ({e}); {UNPACK}") from e
    count, classes = len(bundle.manifest["samples"]), len(read_labels(bundle))
    for name, array in golden.items():
        row = bundle.manifest["input"]["shape"][1:] if name == "images" else [classes]
        if not count or array.dtype != np.float32 or array.shape != (count, *row):
            raise BundleError(
                f"golden.npz is damaged: {name} is {array.dtype} {array.shape} for {count} samples "
                f"and the {classes} classes of labels.txt; {UNPACK}"
            )
    return golden
