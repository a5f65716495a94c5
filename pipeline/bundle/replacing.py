"""What a new bundle may take the place of: an earlier one of its name, and nothing else."""

import tarfile
from pathlib import Path

from pydantic import BaseModel, ValidationError

from models.errors import ArtifactError

BUILT = "built"  # what rebuild.sh writes into a bundle


class _Manifest(BaseModel):
    name: str
    files: dict[str, object]


def require_replaceable(folder: Path, archive: Path) -> None:
    """Require that a bundle's folder and archive are not there, or are of an earlier bundle.

    Raises:
        ArtifactError: they are something else, or files were added to the folder.
    """
    if foreign := _foreign(folder):
        raise ArtifactError(
            f"{foreign} would be deleted, and is not of an earlier bundle; move it away, or name "
            "another folder with --into"
        )
    if archive.exists() and not _is_bundle(archive, folder.name):
        raise ArtifactError(
            f"{archive} is there and is no earlier bundle; move it away, or name another folder "
            "with --into"
        )


def _foreign(folder: Path) -> Path | None:
    """Return what is in the folder's place and not of a bundle of its name."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return folder
    files = {p.relative_to(folder): p for p in sorted(folder.rglob("*")) if not p.is_dir()}
    try:
        text = (folder / "manifest.json").read_text(encoding="utf-8") if files else "{}"
        manifest = _Manifest.model_validate_json(text)
    except (OSError, ValidationError, UnicodeDecodeError):
        return next(iter(files.values()), None)
    of_bundle = {Path(name) for name in (*manifest.files, "manifest.json", "manifest.json.sig")}
    if manifest.name != folder.name:
        return folder
    foreign = (p for name, p in files.items() if name not in of_bundle and name.parts[0] != BUILT)
    return next(foreign, None)


def _is_bundle(archive: Path, name: str) -> bool:
    try:
        with tarfile.open(archive) as entries:
            first = entries.next()
    except (OSError, tarfile.TarError, EOFError):
        return False
    return first is not None and first.name.startswith(f"{name}/")
