"""Mirror the metrics files into MLflow, each run written once, and register what is recommended."""

import sys

from models.errors import ArtifactError, ParityError
from pipeline.params import load_params
from pipeline.presentation import present
from pipeline.records import read_comparison, read_runs
from pipeline.registry import register, withdraw
from pipeline.releases import read_release
from pipeline.store import TrackingError
from pipeline.tracking import mirror
from stages import run_stage


def main() -> None:
    """Fill the store with what it lacks. A store that is away is a warning, not a failure."""
    params = load_params()
    runs = read_runs(params)
    comparison = read_comparison(params, runs)
    try:
        print(mirror(params.name, runs))
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
