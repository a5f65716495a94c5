"""What all groups of keys in params.yaml have in common."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of keys: unknown ones are refused and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Criterion = Literal[
    "msw",
    "sliced",
    "block_influence",
    "random",
    "leave_one_out",
    "recoverability",
    "msw_validation",
    "deepest_first",
    "zscore_percentile",
]
