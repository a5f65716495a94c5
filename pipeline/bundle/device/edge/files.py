"""The bundle's files: what the manifest says of them, and whether they are still that."""

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge.checks import BundleError, fault, shown

FORMAT = 1  # of manifest.json
JSON_BYTES = 1 << 24  # a larger file of JSON is none of a bundle's
OWN = ("manifest.json", "manifest.json.sig")  # not in the manifest: itself, and who signed it
BUILT = "built"  # what rebuild.sh writes, by backend
BUILT_SUFFIXES = (".json", ".log", ".plan", ".plan.new", ".timing", ".timing.lock")
UNPACK = "unpack the bundle again"
# Of manifest.json: what is read here. A type is itself, a list holds one kind, a dict with the key
# `str` any names.
TOLERANCE = {"max_rel": float, "cosine": float, "top1_agreement": float}
MANIFEST = {
    "engines": [{"file": str, "backend": str, "compute_capabilities": [str]}],
    "files": {str: {"sha256": str, "bytes": int}},
    "graphs": [{"file": str, "backend": (str, None), "golden": str}],
    "input": {"name": str, "shape": [(str, int)], "batch": {"min": int, "opt": int, "max": int}},
    "level": int,
    "precision": str,
    "samples": [{"file": str}],
    "tolerances": dict.fromkeys(("onnxruntime", "tensorrt", "tensorrt_rtx"), TOLERANCE),
}
SHA256 = re.compile(r"[0-9a-f]{64}")
CAPABILITY = re.compile(r"\d{1,3}\.\d{1,3}\+?")  # of a GPU: 8.6, or 8.0+ for all later ones


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and what its manifest.json says."""

    folder: Path
    manifest: dict[str, Any]


def guarded(main: Callable[[], None]) -> None:
    """Run a script's main function; what a user can cause ends it with one line, or silently."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except BundleError as e:
        sys.exit(f"error: {shown(str(e))}")
    except MemoryError:
        sys.exit("error: the memory of this machine is not enough")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except BrokenPipeError:  # as by `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest in `folder`.

    Raises:
        BundleError: it is missing, damaged, or of another format than this code reads.
    """
    path = folder / "manifest.json"
    manifest = read_json(path, {"format": (int, str, float, None)})
    if manifest["format"] != FORMAT:
        raise BundleError(
            f"{path} is of format {repr(manifest['format'])[:60]}, and this code reads "
            f"format {FORMAT}; use the run.py and verify.py that came with it"
        )
    if problem := fault(manifest, MANIFEST) or _disagreement(manifest):
        raise BundleError(f"{path} is damaged: {problem}; {UNPACK}")
    return Bundle(folder, manifest)


def read_json(path: Path, kind: Any) -> Any:
    """Return the contents of a JSON file of that kind (`fault`).

    Raises:
        BundleError: it is missing, no plain file, too large, no JSON, or of another kind.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > JSON_BYTES:
            raise BundleError(f"{path} is damaged: no plain file of a few MB; {UNPACK}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BundleError(f"{path} is missing; {UNPACK}") from e
    except OSError as e:
        raise BundleError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{path} is damaged ({e}); {UNPACK}") from e
    if problem := fault(value, kind):
        raise BundleError(f"{path} is damaged: {problem}; {UNPACK}")
    return value


def checked(bundle: Bundle, name: str) -> Path:
    """Return the path of one of the bundle's files, its content being what was shipped.

    Raises:
        BundleError: it is missing or altered.
    """
    if problem := _problem(bundle, name):
        raise BundleError(f"{problem}; {UNPACK}")
    return bundle.folder / name


def plain(bundle: Bundle, name: str) -> Path:
    """Return the path of a file in the bundle's folder, listed or not.

    Raises:
        BundleError: there is none, or it is or lies in a link.
    """
    if problem := no_plain_file(bundle.folder, name):
        raise BundleError(f"{problem}; remove it")
    return bundle.folder / name


def problems(bundle: Bundle) -> list[str]:
    """Return what is missing, altered or not of the bundle, one line each; empty if nothing is.

    In ``built/`` may lie what rebuild.sh writes there.
    """
    listed = bundle.manifest["files"]
    found = [problem for name in listed if (problem := _problem(bundle, name))]
    present = (p for p in bundle.folder.rglob("*") if p.is_symlink() or not p.is_dir())
    names = sorted(path.relative_to(bundle.folder).as_posix() for path in present)
    extra = [name for name in names if name not in listed and not _is_own(bundle, name)]
    return found + [f"{name} is not of this bundle; remove it" for name in extra]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def no_plain_file(folder: Path, name: str) -> str | None:
    """Return why a name in a folder is no plain file that lies there, links followed nowhere."""
    path = folder
    try:
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink():
                return f"{name} is or lies in a link"
        return None if stat.S_ISREG(path.lstat().st_mode) else f"{name} is no plain file"
    except OSError as e:
        return f"{name} cannot be read: {e.strerror}"


def _is_own(bundle: Bundle, name: str) -> bool:
    """Return whether a file may be there without the manifest: itself, and what is built here."""
    parts, plain = PurePosixPath(name).parts, no_plain_file(bundle.folder, name) is None
    stem, dot, suffix = parts[-1].partition(".")
    built = len(parts) == 2 and parts[0] == BUILT and stem in bundle.manifest["tolerances"]
    return plain and (name in OWN or (built and dot + suffix in BUILT_SUFFIXES))


def _disagreement(manifest: dict[str, Any]) -> str | None:
    """Return in what a manifest whose types are right contradicts itself, or leaves its folder."""
    files, given = manifest["files"], manifest["input"]
    used = [*manifest["graphs"], *manifest["engines"], *manifest["samples"]]
    named = [capability for e in manifest["engines"] for capability in e["compute_capabilities"]]
    faults = [
        *(f"{name!r} is no plain path in its folder" for name in files if not _is_within(name)),
        *(
            f"the sha256 of {n!r} is none"
            for n in files
            if not SHA256.fullmatch(files[n]["sha256"])
        ),
        *(f"{u['file']!r} is not among its files" for u in used if u["file"] not in files),
        *(f"{c!r} is no compute capability" for c in named if not CAPABILITY.fullmatch(c)),
    ]
    if [graph["backend"] for graph in manifest["graphs"]].count(None) != 1:
        faults.append("graphs needs one for all backends (backend null)")
    if not 1 <= given["batch"]["min"] <= given["batch"]["opt"] <= given["batch"]["max"]:
        faults.append(f"input.batch needs 1 <= min <= opt <= max, is {given['batch']}")
    sizes = [size for size in given["shape"][1:] if isinstance(size, int) and size > 0]
    if len(given["shape"]) != 4 or len(sizes) != 3 or given["name"].split() != [given["name"]]:
        faults.append("input needs a name without blanks, and batch, channels, height and width")
    return faults[0][:200] if faults else None


def _is_within(name: str) -> bool:
    path = PurePosixPath(name)
    plain_form = str(path) == name and name.isprintable() and "\\" not in name
    return plain_form and not path.is_absolute() and ".." not in path.parts


def _problem(bundle: Bundle, name: str) -> str | None:
    expected = bundle.manifest["files"].get(name)
    if expected is None:
        return f"{name} is not in the manifest"
    if problem := no_plain_file(bundle.folder, name):
        return problem
    path = bundle.folder / name
    try:
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as e:
        return f"{name} cannot be read: {e.strerror}"
    if size != expected["bytes"]:
        return f"{name} was altered: {size} bytes instead of {expected['bytes']}"
    if sha256 != expected["sha256"]:
        return f"{name} was altered: its sha256 is {sha256}, not {expected['sha256']}"
    return None
