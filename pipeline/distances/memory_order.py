"""A batch of features as a matrix, one row per sample, without copying it.

Convolutional features usually lie in memory with their channels last; flattening them in the
logical order would copy every value. Distances do not care about the order of coordinates as long
as it is one for everything compared, so rows follow the memory.
"""

from jaxtyping import Float
from torch import Tensor

Order = tuple[int, ...]  # the dimensions after the first, from the slowest in memory to the fastest


def memory_order(x: Float[Tensor, "n ..."]) -> Order:
    """Return the order of the feature dimensions in which a dense `x` lies in memory."""
    strides = x.stride()
    return tuple(sorted(range(1, x.ndim), key=lambda dim: -strides[dim]))


def as_rows(x: Float[Tensor, "n ..."], order: Order) -> Float[Tensor, "n d"]:
    """Return `x` as a matrix with its coordinates in `order`; a view where `x` lies so."""
    return x.permute(0, *order).reshape(len(x), -1)


def from_rows(
    rows: Float[Tensor, "n d"], shape: tuple[int, ...], order: Order
) -> Float[Tensor, "n ..."]:
    """Return what `as_rows` would have given `rows` for: a view of the feature shape `shape`."""
    permuted = rows.reshape(len(rows), *(shape[dim - 1] for dim in order))
    return permuted.permute(0, *(1 + order.index(dim) for dim in range(1, len(shape) + 1)))
