"""What all groups of keys in params.yaml have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of keys: unknown ones are refused and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
