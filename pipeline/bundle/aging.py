"""Which bundles that were made by hand are of networks that the project no longer has."""

from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from models.errors import ArtifactError
from pipeline.core.artifacts import artifacts_dir, metrics_path
from pipeline.core.records import read_record
from pipeline.engines.records import VerifyMetrics


class _Graph(BaseModel):
    file: str
    backend: str | None


class _File(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    variant: str
    level: int
    precision: str
    graphs: list[_Graph]
    files: dict[str, _File]


class OldBundle(NamedTuple):
    """A bundle whose graph is not the one that `verify` has proven last, and what makes it anew."""

    folder: str
    remedy: str


def old_bundles() -> list[OldBundle]:
    """Return the old ones among artifacts/bundle/*/; what DVC makes lies a folder deeper."""
    found = []
    for path in sorted(artifacts_dir("bundle").glob("*/manifest.json")):
        try:
            manifest = _Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue  # no bundle
        if not _is_current(manifest):
            of = f"{manifest.variant} --level {manifest.level} --precision {manifest.precision}"
            found.append(OldBundle(str(path.parent), f"python -m pipeline bundle {of}"))
    return found


def _is_current(manifest: _Manifest) -> bool:
    try:
        proven = read_record(metrics_path("verify", manifest.variant), VerifyMetrics)
    except ArtifactError:
        return False
    of = (manifest.level, "precision", manifest.precision)
    checks = [(proven.find(*of, graph.backend), graph.file) for graph in manifest.graphs]
    shipped = {name: file.sha256 for name, file in manifest.files.items()}
    return all(check and check.sha256 == shipped.get(file) for check, file in checks)
