"""How far outputs may be from float32's before a precision counts as wrong: one row each.

An operator rounds its result by a relative error u: 2⁻²⁴ in float32, 2⁻¹¹ in float16, 2⁻⁸ in
bfloat16 (Higham, Accuracy and Stability of Numerical Algorithms, section 2.1), and int8 rounds to
one of 255 steps. Through L operators such errors grow like √L · u to L · u; `max_rel` leaves room
for about 20 u at float types. It is a maximum over all images and classes, so cosine and top-1
agreement are checked beside it.
"""

from dataclasses import dataclass

from pipeline.export.parity import Parity


@dataclass(frozen=True)
class Tolerance:
    """What a precision explains; more is a defect."""

    max_rel: float  # largest difference over the largest magnitude of the reference
    cosine: float  # smallest over the images
    top1_agreement: float  # share of images with the same top-1 class


TOLERANCES = {
    # Another order of summation, and TF32 (u = 2⁻¹¹) nowhere.
    "fp32": Tolerance(max_rel=1e-4, cosine=0.99999, top1_agreement=0.999),
    "fp16": Tolerance(max_rel=1e-2, cosine=0.9999, top1_agreement=0.99),
    # Eight times as coarse as float16.
    "bf16": Tolerance(max_rel=8e-2, cosine=0.998, top1_agreement=0.97),
    # Half a step of 255 at every weight and activation; ranges are clipped where images exceed
    # those of the calibration.
    "int8": Tolerance(max_rel=3e-1, cosine=0.97, top1_agreement=0.95),
}


def violations(parity: Parity, tolerance: Tolerance) -> list[str]:
    """Return what is worse than the tolerance, in words."""
    found = []
    if not parity.max_rel <= tolerance.max_rel:  # NaN is not
        found.append(f"max_rel {parity.max_rel:.1e} > {tolerance.max_rel:.0e}")
    if not parity.cosine >= tolerance.cosine:
        found.append(f"cosine {parity.cosine:.5f} < {tolerance.cosine:g}")
    if not parity.top1_agreement >= tolerance.top1_agreement:
        agreement = f"{parity.top1_agreement:.2%} < {tolerance.top1_agreement:.1%}"
        found.append(f"top-1 agreement {agreement}")
    return found
