"""What dvc.lock has recorded of every stage that has ended."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from models.errors import ArtifactError
from pipeline.core.artifacts import read_yaml

LOCK = Path("dvc.lock")


def locked_stages() -> dict[str, Any]:
    """Return what dvc.lock has recorded of every stage that has ended; nothing without a file.

    Raises:
        ArtifactError: it is not valid YAML.
    """
    try:
        stages = dict((read_yaml(LOCK) or {}).get("stages") or {})
        return TypeAdapter(dict[str, dict[str, Any]]).validate_python(stages)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as e:
        raise ArtifactError(
            f"{LOCK} is not valid YAML, or not what DVC writes; restore it with "
            f"`git checkout {LOCK}`"
        ) from e
