"""Mirror the metrics files into MLflow, each run written once, and register what is recommended."""

import sys

from models.errors import ArtifactError, ParityError
from pipeline.core.params import load_params
from pipeline.core.stage_script import run_stage
from pipeline.report.comparison import read_summary
from pipeline.report.tracking.experiment_page import present
from pipeline.report.tracking.mirror import mirror, mirror_failures
from pipeline.report.tracking.registry import register, withdraw
from pipeline.report.tracking.release import read_release
from pipeline.report.tracking.runs import read_comparison, read_runs
from pipeline.report.tracking.store import TrackingError


def main() -> None:
    """Fill the store with what it lacks. A store that is away is a warning, not a failure."""
    params = load_params()
    runs = read_runs(params)
    comparison = read_comparison(params, runs)
    try:
        print(mirror(params.name, runs))
        mirror_failures(params.name, read_summary().failures)
        present(params.name, comparison)
        release = read_release(params, comparison)
        if release:
            print(register(params.name, release))
        else:
            print(withdraw(params.name, comparison.reason))
    except TrackingError as e:
        print(f"warning: {e}", file=sys.stderr)
    except (ArtifactError, ParityError) as e:
        print(f"warning: nothing registered: {e}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
