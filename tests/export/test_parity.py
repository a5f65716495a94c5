"""The comparison of two sets of logits."""

import numpy as np
import pytest

from models.errors import ParityError
from pipeline.export.parity import compare, require

REFERENCE = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)


def test_equal_logits() -> None:
    parity = compare(REFERENCE, REFERENCE.copy())
    assert (parity.max_abs, parity.max_rel, parity.top1_agreement) == (0, 0, 1)
    assert parity.cosine == pytest.approx(1)


def test_each_number_says_what_it_is() -> None:
    other = np.array([[4.0, 3.0], [0.0, 2.0]], dtype=np.float32)
    parity = compare(REFERENCE, other)
    assert parity.max_abs == 1
    assert parity.max_rel == pytest.approx(1 / 4)
    assert parity.cosine == pytest.approx(24 / 25)
    assert parity.top1_agreement == 0.5


def test_beyond_the_tolerance_is_an_error_that_says_by_how_much() -> None:
    parity = compare(REFERENCE, REFERENCE + np.float32(0.4))
    require(parity, 0.2, "level 1")
    with pytest.raises(
        ParityError, match=r"level 1: the outputs differ by 1\.00e-01 of their range"
    ):
        require(parity, 0.05, "level 1")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    other = REFERENCE.copy()
    other[0, 0] = bad
    with pytest.raises(ParityError, match="not finite"):
        compare(REFERENCE, other)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ParityError, match=r"\(2, 2\) and \(1, 2\)"):
        compare(REFERENCE, REFERENCE[:1])
