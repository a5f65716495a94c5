"""What every runtime offers: a function from normalised images to logits, or why it cannot."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.checks import BundleError

Images = NDArray[np.float32]  # (n, c, h, w)
Logits = NDArray[np.float32]  # (n, k)
Run = Callable[[Images], Logits]


class NotHereError(Exception):
    """This machine cannot run that backend: a fact with a reason, not a mistake."""


def require_logits(values: Any, images: Images) -> Logits:
    """Return what a network gave for images, if it is a row of numbers for each.

    Raises:
        BundleError: it is something else: the network is none that classifies.
    """
    is_array = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    if not is_array or values.ndim != 2 or len(values) != len(images) or not values.size:
        what = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "no array"
        raise BundleError(f"the network gave {what} for {len(images)} images, not logits of each")
    logits: Logits = values
    return logits
