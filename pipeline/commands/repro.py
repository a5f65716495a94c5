"""Run what has changed, for all variants or for those named.

It is `dvc repro`, after a look at params.yaml: a mistake there is one line, and nothing starts. A
run that was killed goes on where it was: finished stages are kept, a training continues at its last
epoch.

examples:
  python -m pipeline repro                    everything, the report and MLflow included
  python -m pipeline repro lacoot             the stages of one variant; the report comes without
  python -m pipeline repro --force lacoot     also what has not changed
  python -m pipeline -q repro                 only errors are told
  python -m pipeline status                   what would run, and why
"""

import argparse
import signal
import subprocess

from models.errors import ArtifactError
from pipeline.commands import DONE, INTERRUPTED
from pipeline.dvc_stages import run_dvc, variant_stages
from pipeline.params import load_params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the names of variants, and whether to run them all the same."""
    parser.add_argument("variant", nargs="*", help="names under `variants`; none: everything")
    parser.add_argument("-f", "--force", action="store_true", help="run what has not changed too")


def run(arguments: argparse.Namespace) -> int:
    """Check params.yaml, then let DVC do it."""
    params = load_params()
    for variant in arguments.variant:
        params.variant(variant)
    targets = [f"{stage}@{name}" for name in arguments.variant for stage in variant_stages()]
    flags = ["--force"] * arguments.force + ["--quiet"] * arguments.quiet
    output = subprocess.DEVNULL if arguments.quiet else None
    code = run_dvc(["repro", *flags, *targets], output=output)
    if code == -signal.SIGINT:
        return INTERRUPTED
    if code:
        raise ArtifactError(
            "`dvc repro` stopped, for the reason above; what is done is kept: "
            "`python -m pipeline status` shows it"
        )
    if not arguments.quiet:
        print("next: python -m pipeline compare")
    return DONE
