"""Images and logits as arrays, and what computes one from the other."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

Images = Float32[np.ndarray, "n c h w"]
Logits = Float32[np.ndarray, "n k"]
Run = Callable[[Images], Logits]
