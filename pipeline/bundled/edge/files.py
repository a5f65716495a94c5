"""The bundle's files: what the manifest says of them, and whether they are still that."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1  # of manifest.json
KEYS = {"engines", "files", "graphs", "input", "precision", "samples", "tolerances"}
OWN = ("manifest.json", "built")  # not in the manifest: itself, and what rebuild.sh writes


class BundleError(Exception):
    """Something is wrong with the bundle or with what it was given; the message is for the user."""


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and what its manifest.json says."""

    folder: Path
    manifest: dict[str, Any]


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest in `folder`.

    Raises:
        BundleError: it is missing, damaged, or of another format than this code reads.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        written = manifest["format"]
    except FileNotFoundError as e:
        raise BundleError(f"{path} is missing; unpack the bundle again") from e
    except (ValueError, TypeError, KeyError) as e:
        raise BundleError(f"{path} is damaged ({e!r}); unpack the bundle again") from e
    if written != FORMAT:
        raise BundleError(
            f"{path} is of format {written!r}, and this code reads format {FORMAT}; "
            "use the run.py and verify.py that came with it"
        )
    if missing := KEYS - manifest.keys():
        raise BundleError(
            f"{path} is damaged: it has no {', '.join(sorted(missing))}; unpack the bundle again"
        )
    return Bundle(folder, manifest)


def checked(bundle: Bundle, name: str) -> Path:
    """Return the path of one of the bundle's files, its content being what was shipped.

    Raises:
        BundleError: it is missing or altered.
    """
    if problem := _problem(bundle, name):
        raise BundleError(f"{problem}; unpack the bundle again")
    return bundle.folder / name


def problems(bundle: Bundle) -> list[str]:
    """Return what is missing, altered or not of the bundle, one line each; empty where all is well.

    ``built/`` and ``__pycache__`` are left out: they come into being on the device.
    """
    listed = bundle.manifest["files"]
    found = [problem for name in listed if (problem := _problem(bundle, name))]
    present = (path for path in bundle.folder.rglob("*") if not path.is_dir())
    names = (path.relative_to(bundle.folder) for path in present)
    extra = sorted(
        name.as_posix()
        for name in names
        if name.as_posix() not in listed
        and name.parts[0] not in OWN
        and "__pycache__" not in name.parts
    )
    return found + [f"{name} is not of this bundle; remove it" for name in extra]


def _problem(bundle: Bundle, name: str) -> str | None:
    expected = bundle.manifest["files"].get(name)
    if expected is None:
        return f"{name} is not in the manifest"
    path = bundle.folder / name
    try:
        size, sha256 = path.stat().st_size, _sha256(path)
    except OSError as e:
        return f"{name} cannot be read: {e.strerror}"
    if size != expected["bytes"]:
        return f"{name} was altered: {size} bytes instead of {expected['bytes']}"
    if sha256 != expected["sha256"]:
        return f"{name} was altered: its sha256 is {sha256}, not {expected['sha256']}"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
