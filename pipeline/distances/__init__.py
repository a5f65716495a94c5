"""Max-sliced Wasserstein distances between the features around a block (arXiv 2406.08933)."""

from pipeline.distances.sliced import max_sliced_wasserstein, sliced_wasserstein

__all__ = ["max_sliced_wasserstein", "sliced_wasserstein"]
