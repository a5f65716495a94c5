"""DVC from a program: the stages that dvc.yaml describes, and its command as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.errors import ArtifactError

DVC_YAML = Path("dvc.yaml")
LOCK = Path("dvc.lock")


def described_stages() -> dict[str, Any]:
    """Return the stages of dvc.yaml, in its order.

    Raises:
        ArtifactError: there is no dvc.yaml here, or it is not valid YAML.
    """
    try:
        stages: dict[str, Any] = _read(DVC_YAML)["stages"]
    except FileNotFoundError as e:
        raise ArtifactError(f"{DVC_YAML} is missing; run from the folder that holds it") from e
    except (yaml.YAMLError, KeyError, TypeError) as e:
        raise ArtifactError(f"{DVC_YAML} does not describe stages: {e}") from e
    return stages


def locked_stages() -> dict[str, Any]:
    """Return what dvc.lock has recorded of every stage that has ended; nothing without a file.

    Raises:
        ArtifactError: it is not valid YAML.
    """
    try:
        return dict((_read(LOCK) or {}).get("stages") or {})
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as e:
        raise ArtifactError(
            f"{LOCK} is not valid YAML; restore it with `git checkout {LOCK}`"
        ) from e


def _read(path: Path) -> Any:
    # Seven times as fast as the loader in Python: a hundred variants have a lock of megabytes.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def variant_stages() -> list[str]:
    """Return the names of the stages that exist once per variant, in their order."""
    return [name for name, stage in described_stages().items() if "foreach" in stage]


def run_dvc(arguments: Sequence[str], *, output: int | None = None) -> int:
    """Run ``dvc`` with this Python's packages and return its exit code.

    Ctrl-C reaches DVC as well, which then ends its stage and releases its locks: that is awaited.

    Args:
        arguments: of the command line, without ``dvc``.
        output: what becomes of its standard output, as `subprocess` takes it; None: shown.
    """
    process = subprocess.Popen(dvc_command(arguments), env=dvc_environment(), stdout=output)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        return -signal.SIGINT


def dvc_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of ``dvc`` as it is installed beside this Python."""
    return [sys.executable, "-m", "dvc", *arguments]


def dvc_environment() -> Mapping[str, str]:
    """Return the environment in which stages, called ``python -m …``, are run by this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path}
