"""The bundle: a folder to copy to a device, and the same as an archive.

It holds a graph and its engines, what feeds them, scripts that classify an image, verify the bundle
and build a plan on the device, and a model repository for Triton. The same inputs give the same
bytes, and nothing below a failed check of the parity chain is in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.hashing import file_sha256
from pipeline.bundle.contents import (
    copy_networks,
    copy_scripts,
    write_golden,
    write_inputs,
    write_triton,
)
from pipeline.bundle.manifest import Facts, describe, hashes, without_folders
from pipeline.bundle.replacing import require_replaceable
from pipeline.bundle.selection import Selection
from pipeline.bundle.signing import SIGNATURE, sign
from pipeline.bundle.tarball import write_tarball
from pipeline.bundle.tensors import tensors
from pipeline.core.artifacts import replace_dir, replace_file, write_json
from pipeline.data.dataset import Dataset


def write_bundle(
    into: Path,
    selection: Selection,
    facts: Facts,
    data: Dataset,
    samples: int,
    key: Path | None = None,
) -> tuple[Path, Path]:
    """Write ``<into>/<name>/`` and ``<into>/<name>.tar.gz``; return both paths.

    Beside the archive are its sha256 and, with a key, its signature; the folder has the manifest's.

    Args:
        into: the folder of bundles.
        selection: what is shipped.
        facts: what the manifest says beside it.
        data: the images, with the normalisation that the network wants.
        samples: how many are shipped.
        key: of OpenSSH, to sign with.

    Raises:
        ArtifactError: a file of an earlier stage is missing or is not what its metrics say; or
            where the bundle goes lies what is none.
        DataError: a class has a name that cannot stand in a list of labels.
    """
    folder, archive = into / selection.name, into / f"{selection.name}.tar.gz"
    require_replaceable(folder, archive)
    with replace_file(archive) as packed, replace_dir(folder) as work:
        copy_networks(work, selection)
        manifest = describe(selection, facts, tensors(work / "model.onnx"))
        write_inputs(work, data, facts.pixels)
        manifest |= write_golden(work, selection, data, samples)
        manifest = without_folders(manifest)
        runs = manifest["golden"]["logits"] == "model.onnx"
        write_triton(work, selection, data.classes, facts.batch, onnxruntime=runs)
        copy_scripts(work, _summary(manifest))
        write_json(work / "manifest.json", manifest | {"files": hashes(work)})
        if key:
            (work / f"manifest.json{SIGNATURE}").write_bytes(sign(work / "manifest.json", key))
        write_tarball(work, selection.name, packed)
    _write_beside(archive, ".sha256", f"{file_sha256(archive)}  {archive.name}\n".encode())
    _write_beside(archive, SIGNATURE, sign(archive, key) if key else None)
    return folder, archive


def _write_beside(archive: Path, suffix: str, content: bytes | None) -> None:
    """Write a file of the archive's name and a suffix; without content there is none after."""
    path = archive.with_name(archive.name + suffix)
    if content is None:
        path.unlink(missing_ok=True)
        return
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def _summary(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts for the bundle's README."""
    graph, removed = manifest["graphs"][0], manifest["removed"]
    engines = [
        f"`{engine['file']}` ({engine['backend']} {engine['version']}, compute capability "
        f"{', '.join(engine['compute_capabilities'])}; {engine['status']} here)"
        for engine in manifest["engines"]
    ]
    return {
        "name": manifest["name"],
        "model": manifest["model"]["name"],
        "removed": ", ".join(removed) or "none",
        "precision": manifest["precision"],
        "val_accuracy_pct": f"{graph['val_accuracy_pct']:.2f}",
        "test_accuracy_pct": f"{graph['test_accuracy_pct']:.2f}",
        "engines": "; ".join(engines) or "none",
        "sample": manifest["samples"][0]["file"],
    }
