"""Variants that failed, as a sweep leaves them: metrics/failed.json, kept in git.

A stage that failed leaves no metrics, so a failure is valid until that stage has succeeded, however
it was run again; without metrics of its own, until the stage in `PROVEN_BY` has. That of `bundle`,
the last stage, is valid until a sweep finds it done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from models.errors import ArtifactError
from pipeline.core.artifacts import CACHE, METRICS, locked, metrics_path, read_json, write_json

FAILED = METRICS / "failed.json"
AFTER_REPORT = {"bundle"}  # where these fail, the numbers of the variant are whole
# What has no metrics, and the stage with metrics that cannot succeed without it. Of a job that DVC
# or Slurm ended, no one knows how far it was: the last stage with metrics was not done.
PROVEN_BY = {"yardstick": "plan", "dvc": "verify", "slurm": "verify"}


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
    try:
        content = read_json(FAILED)
        return {
            variant: Failure(str(entry["stage"]), str(entry["reason"]))
            for variant, entry in content.items()
        }
    except (ArtifactError, AttributeError, TypeError) as e:
        raise ArtifactError(
            f"{FAILED} is not as this version writes it; delete it and run the sweep again"
        ) from e


def record(variant: str, failure: Failure | None) -> None:
    """Put on record how a variant ended; None, that it succeeded, takes its entry away."""
    with locked(CACHE / FAILED.name):
        found = {name: known for name, known in read_failures().items() if name != variant}
        if failure is not None:
            _proof(failure.stage, variant).unlink(missing_ok=True)
            found[variant] = failure
        write_json(FAILED, {name: asdict(found[name]) for name in sorted(found)})


def still_failed(variants: Iterable[str]) -> dict[str, Failure]:
    """Return the failures of these variants whose stage has not succeeded since."""
    found = read_failures()
    return {
        variant: found[variant]
        for variant in variants
        if variant in found and not _proof(found[variant].stage, variant).exists()
    }


def _proof(stage: str, variant: str) -> Path:
    """Return the metrics that are there once the stage has succeeded after its failure."""
    return metrics_path(PROVEN_BY.get(stage, stage), variant)


def with_numbers(variants: Iterable[str]) -> tuple[list[str], dict[str, Failure]]:
    """Return the variants whose metrics are those of their settings, and the failures of all.

    Raises:
        ArtifactError: every variant failed.
    """
    variants = list(variants)
    found = still_failed(variants)
    whole = [v for v in variants if v not in found or found[v].stage in AFTER_REPORT]
    if not whole:
        name, failure = next(iter(found.items()))
        raise ArtifactError(
            f"all variants failed, such as {name} at {failure.stage}: {failure.reason}"
        )
    return whole, found


def failure_lines() -> list[str]:
    """Return a line per variant that failed, e.g. ``failed: wide in train: the loss is NaN``."""
    return [
        f"failed: {variant} in {failure.stage}: {failure.reason}"
        for variant, failure in still_failed(read_failures()).items()
    ]
