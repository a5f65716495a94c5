"""What every runtime offers: a function from normalised images to logits, or why it cannot."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]  # (n, c, h, w)
Logits = NDArray[np.float32]  # (n, k)
Run = Callable[[Images], Logits]


class NotHereError(Exception):
    """This machine cannot run that backend: a fact with a reason, not a mistake."""
