"""Mirror the metrics files into MLflow: one run per variant and level, each written once."""

import sys

from pipeline.params import load_params
from pipeline.records import read_runs
from pipeline.store import TrackingError
from pipeline.tracking import mirror
from stages import run_stage


def main() -> None:
    """Fill the store with what it lacks. A store that is away is a warning, not a failure."""
    params = load_params()
    runs = read_runs(params)
    try:
        print(mirror(params.name, runs))
    except TrackingError as e:
        print(f"warning: {e}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
