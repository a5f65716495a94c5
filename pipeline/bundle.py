"""The bundle: a folder to copy to a device, and the same as an archive.

It holds a graph and its engines, what feeds them, scripts that classify an image, verify the bundle
and build a plan on the device, and a model repository for Triton. The same inputs give the same
bytes, and nothing below a failed rung of the parity ladder is in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import replace_dir, replace_file, write_json
from pipeline.params import Params
from pipeline.shipping.contents import (
    Sources,
    copy_networks,
    copy_scripts,
    write_golden,
    write_inputs,
    write_triton,
)
from pipeline.shipping.manifest import describe, hashes
from pipeline.shipping.selection import Facts, Selection
from pipeline.shipping.tarball import write_tarball
from pipeline.shipping.tensors import tensors


def write_bundle(
    into: Path,
    selection: Selection,
    facts: Facts,
    sources: Sources,
    params: Params,
    tolerances: Mapping[str, Mapping[str, float]],
) -> tuple[Path, Path]:
    """Write ``<into>/<name>/`` and ``<into>/<name>.tar.gz``; return both paths.

    Args:
        into: the folder of bundles.
        selection: what is shipped.
        facts: as `pipeline.shipping.manifest.describe` takes them.
        sources: of the files.
        params: ``prepare`` says how images are fitted, ``build`` which batches engines take,
            ``bundle`` how many samples are shipped.
        tolerances: by backend, how far its logits may be from the golden ones.

    Raises:
        ArtifactError: a file of an earlier stage is missing or is not what its metrics say.
        DataError: a class has a name that cannot stand in a list of labels.
    """
    folder, archive = into / selection.name, into / f"{selection.name}.tar.gz"
    with replace_file(archive) as packed, replace_dir(folder) as work:
        files = copy_networks(work, selection, sources)
        manifest = describe(selection, facts, files, tensors(work / "model.onnx"), params.build)
        manifest |= {"tolerances": tolerances}
        write_inputs(work, sources.data, params.prepare.fit)
        manifest |= write_golden(work, files, sources, params.bundle.samples)
        write_triton(
            work,
            selection.name,
            files,
            sources.data.classes,
            params.build.batch,
            onnxruntime=manifest["golden"]["logits"] == "model.onnx",
        )
        copy_scripts(work, _told(manifest))
        write_json(work / "manifest.json", manifest | {"files": hashes(work)})
        write_tarball(work, selection.name, packed)
    return folder, archive


def _told(manifest: Mapping[str, Any]) -> dict[str, str]:
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
