"""Variants that failed, as a sweep leaves them: metrics/failed.json."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import ArtifactError
from pipeline.artifacts import METRICS, read_json

FAILED = METRICS / "failed.json"


@dataclass(frozen=True)
class Failure:
    """Where a variant stopped, and why."""

    stage: str
    reason: str


def read_failures() -> Mapping[str, Failure]:
    """Return the failure of each variant that has one.

    Raises:
        ArtifactError: the file is damaged.
    """
    if not FAILED.exists():
        return {}
    content = read_json(FAILED)
    try:
        return {
            variant: Failure(str(told["stage"]), str(told["reason"]))
            for variant, told in content.items()
        }
    except (AttributeError, KeyError, TypeError) as e:
        raise ArtifactError(
            f"{FAILED} is not as this version writes it; delete it and run the sweep again"
        ) from e


def failure_lines() -> list[str]:
    """Return a line per variant that failed, e.g. ``failed: wide in train: the loss is NaN``."""
    return [
        f"failed: {variant} in {failure.stage}: {failure.reason}"
        for variant, failure in read_failures().items()
    ]
