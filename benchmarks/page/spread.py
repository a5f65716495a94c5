"""How results over seeds are shown."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, without the latter where there is one value alone."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
