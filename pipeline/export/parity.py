"""Compare two networks that must be the same: one number per way in which they could differ."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from models.errors import ParityError


@dataclass(frozen=True)
class Parity:
    """How far two sets of logits (n, classes) are apart."""

    max_abs: float  # largest absolute difference
    max_rel: float  # the same, relative to the largest magnitude of the reference
    cosine: float  # smallest cosine over the images
    top1_agreement: float  # share of images with the same top-1 class


def compare(reference: Float32[np.ndarray, "n k"], candidate: Float32[np.ndarray, "m j"]) -> Parity:
    """Measure how far `candidate` is from `reference`.

    Raises:
        ParityError: the shapes differ, or a value is not finite.
    """
    if reference.shape != candidate.shape:
        raise ParityError(f"logits of shapes {reference.shape} and {candidate.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ParityError("the logits hold values that are not finite")
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    difference = np.abs(a - b).max()
    scale = np.abs(a).max()
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.ones(len(a)), where=norms > 0)
    return Parity(
        max_abs=float(difference),
        max_rel=float(difference / scale) if scale else float(difference),
        cosine=float(cosines.min()),
        top1_agreement=float((a.argmax(axis=1) == b.argmax(axis=1)).mean()),
    )


def require(parity: Parity, tolerance: float, what: str) -> None:
    """Raise `ParityError` where the relative difference exceeds the tolerance."""
    if parity.max_rel > tolerance:
        raise ParityError(
            f"{what}: the outputs differ by {parity.max_rel:.2e} of their range "
            f"({parity.max_abs:.2e} absolute, top-1 agreement {parity.top1_agreement:.2%}), "
            f"more than the tolerance {tolerance:.0e}"
        )
