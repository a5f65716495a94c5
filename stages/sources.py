"""Look at the files that params.yaml names outside of the project: metrics/sources/.

It validates params.yaml before any stage of a variant is run, whose name is in a command line.
"""

from pipeline.core.artifacts import require_own_folder
from pipeline.core.params import load_params
from pipeline.core.sources import SOURCES, record_sources
from pipeline.core.stage_script import run_stage


def main() -> None:
    """Record the contents of the images, and what every variant's training starts from."""
    require_own_folder()
    params = load_params()
    record_sources(params)
    print(f"{SOURCES}: the images and what {len(params.variants)} variants start from")


if __name__ == "__main__":
    run_stage(main)
